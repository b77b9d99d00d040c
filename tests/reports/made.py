"""Evaluated runs that are written by hand: no training, no scoring."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.evaluation import positions, summary
from morphojax.inference import cases
from tests.toy_run import write_run

SUBJECTS = 5
STRUCTURES = ("lv_cavity", "rv_cavity")


def dice(subject: int, structure: str, phase: str) -> float:
    """Subject 0 is the worst, subject 4 the best."""
    return 0.5 + 0.1 * subject - 0.05 * (structure == "rv_cavity") - 0.02 * (phase == "ES")


def _scores(plane: str, gain: float) -> pd.DataFrame:
    rows = [
        {"subject": f"secret{s}", "index": s, "plane": plane, "phase": phase, "structure": structure,
         "dice": dice(s, structure, phase) + gain, "surface_dice": 0.6, "hd95_mm": 9.0 - s, "hd95_directed_mm": 9.0,
         "assd_mm": 1.0, "missed": False, "spurious": (s, structure, phase) == (3, "rv_cavity", "ES")}
        for s in range(SUBJECTS) for structure in STRUCTURES for phase in ("ED", "ES")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _measures(plane: str, gain: float) -> pd.DataFrame:
    """Errors of the EDV fall by 100 ml x gain. The prediction of subject 0 gives no LV EF, and its
    reference no RV EF.
    """
    rows = [
        {"subject": f"secret{s}", "index": s, "plane": plane, "measure": measure, "reference": r, "predicted": p}
        for s in range(SUBJECTS)
        for measure, r, p in (
            ("lv_edv_ml", 150.0 + 5 * s, 160.0 + 6 * s - 100 * gain),
            ("lv_ef_percent", 60.0, 55.0 + s if s else np.nan),
            ("rv_ef_percent", 50.0 if s else np.nan, 48.0),
            ("lv_co_l_min", np.nan, np.nan),
        )
    ]
    return pd.DataFrame(rows)


def _positions() -> pd.DataFrame:
    rows = [
        {"subject": f"secret{s}", "index": s, "plane": "sax", "phase": "ED", "structure": structure}
        | {"position": position, "dice": at, "n_slices": 3}
        for s in range(SUBJECTS)
        for structure in STRUCTURES
        for position, at in (("base", 0.7), ("middle", 0.9), ("apex", 0.6))
    ]
    return pd.DataFrame(rows, columns=pd.Index(["subject", "index", *positions.COLUMNS]))


def _pictures(plane: str) -> bytes:
    picture = np.zeros((3, 16, 16), np.uint8)
    picture[1, 4:10, 4:10] = picture[2, 4:10, 5:11] = anatomy.LABEL_ID["rv_cavity"]
    return cases.encode(cases.Case(s, plane, "ED", 2, picture) for s in range(SUBJECTS))


def evaluated(
    run: Path, gain: float = 0.0, split: str = "test", fingerprint: str = "d1", plane: str = "sax", **config: Any
) -> Path:
    """A run with what `evaluate` writes for a report. gain: of every Dice."""
    write_run(run, "gone", fingerprint, (plane,), STRUCTURES, **config)
    folder = run / "evaluation"
    folder.mkdir()
    scores = _scores(plane, gain)
    tables = {"scores": scores, "measures": _measures(plane, gain)}
    if plane == positions.PLANE:
        tables["positions"] = _positions()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}_{split}.csv", index=False)
    about = {"checkpoint": "best", "weights": "model", "largest_component": True, "dataset_fingerprint": fingerprint}
    about |= {"runs": [str(run)], "conventions": summary.conventions(2.0), "split": split}
    about["rows"] = summary.summarise(scores).to_dict("records")
    (folder / f"summary_{split}.json").write_text(json.dumps(about))
    (folder / f"cases_{split}.npz").write_bytes(_pictures(plane))
    return run
