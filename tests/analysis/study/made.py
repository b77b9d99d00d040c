"""Studies whose cells are written by hand: no training."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np
import pandas as pd

from analysis.study import jobs, spec, state
from morphojax.evaluation import positions
from morphojax.inference import cases

STRUCTURES = ("lv_cavity", "lv_myocardium", "rv_cavity")
EFFECTS = {"scratch": 0.0, "pretrained": 0.04, "shuffled": 0.0}
IMAGES = {"planes": ["sax"], "structures": list(STRUCTURES), "grid": {"spacing_mm": 2.0, "size": 96}, "measures": []}


def config(folder: Any, **changes: Any) -> ml_collections.ConfigDict:
    """Three arms, two sets with one label and one with two, two seeds."""
    segment = {"config": "configs/segment_sax.py"}
    pretraining = {"config": "configs/pretrain_sax.py", "steps": 5, "epochs": 0.0}
    values = {
        "question": "Does it help?",
        "folder": str(folder),
        "axes": {
            "arm": {
                "scratch": {"segment": segment},
                "pretrained": {"segment": segment, "pretrain": pretraining},
                "shuffled": {"segment": segment, "pretrain": pretraining | {"table": {"control": "shuffled"}}},
            },
            "labelled": {
                "1a": {"labels": 1, "segment": {"data": {"fraction": 0.1}}},
                "1b": {"labels": 1, "segment": {"data": {"fraction": 0.11}}},
                "2a": {"labels": 2, "segment": {"data": {"fraction": 0.2}}},
            },
            "seed": {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in (0, 1)},
        },
        "base": {"segment": {"steps": 7}},
        "cells": (),
        "baseline": "scratch",
        "contrasts": (("pretrained", "scratch"), ("pretrained", "shuffled")),
        "evaluate": {"split": "test", "checkpoint": "last", "weights": "ema"},
    }
    return ml_collections.ConfigDict(values | changes)


def study(folder: Any, **changes: Any) -> tuple[spec.Study, list[jobs.Job]]:
    made = spec.from_config(config(folder, **changes))
    return made, jobs.plan(made)


def dice(values: Mapping[str, str], subject: int, structure: str, phase: str) -> float:
    """Of a cell: its arm's effect, and a part that depends on everything but the arm."""
    rest = [values["labelled"], values["seed"], str(subject), structure, phase]
    noise = np.random.default_rng([ord(c) for c in "".join(rest)]).normal(0, 0.02)
    own = np.random.default_rng([ord(c) for c in "".join([values["arm"], *rest])]).normal(0, 0.005)
    return float(np.clip(0.7 + EFFECTS.get(values["arm"], 0.0) + noise + own, 0, 1))


def _measures(values: Mapping[str, str], subjects: int) -> pd.DataFrame:
    """Errors of the LV EF: 5 + subject % points, and 2 less in the arm `pretrained`."""
    ef = 5 - 50 * EFFECTS.get(values["arm"], 0.0)
    rows = [
        (f"pseudonym{s}", s, "sax", measure, reference, reference + error)
        for s in range(subjects)
        for measure, reference, error in (
            ("lv_ef_percent", 60.0, ef + s), ("lv_edv_ml", 150.0, -3.0), ("lv_esv_ml", 60.0, 4.0), ("rv_ef_percent", 30.0, 6.0),
        )
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(["subject", "index", "plane", "measure", "reference", "predicted"]))


def _positions(subjects: int) -> pd.DataFrame:
    rows = [
        (f"pseudonym{s}", s, "sax", phase, structure, position, at + 0.01 * (s % 6), 3)
        for s in range(subjects)
        for phase in ("ED", "ES")
        for structure in STRUCTURES
        for position, at in (("base", 0.7), ("middle", 0.9), ("apex", 0.6))
    ]
    return pd.DataFrame(rows, columns=pd.Index(["subject", "index", *positions.COLUMNS]))


def _cases(subjects: int) -> bytes:
    """Of every subject: a reference and, a pixel further, a prediction."""
    picture = np.zeros((3, 16, 16), np.uint8)
    picture[0] = np.arange(16) * 10
    picture[1, 4:10, 4:10] = picture[2, 4:10, 5:11] = 2
    picture[1, 5:8, 5:8] = picture[2, 5:8, 6:9] = 1
    return cases.encode(cases.Case(s, "sax", "ED", s, picture) for s in range(subjects))


def rescore(job: jobs.Job, name: str, table: pd.DataFrame | None) -> None:
    """Replaces a table of a cell's scoring; None: as if an earlier version had scored it."""
    path = state.scoring_file(job.run, name, "test")
    path.unlink() if table is None else table.to_csv(path, index=False)
    state.write(job, {"train": 60.0, "evaluate": 5.0}, done=True)


def finish(
    job: jobs.Job,
    value: Callable[[Mapping[str, str], int, str, str], float] = dice,
    subjects: int = 6,
    dataset: str = "d1",
    seconds: float = 60.0,
) -> None:
    """Writes what a done job leaves."""
    job.run.mkdir(parents=True, exist_ok=True)
    about = {"commit": "c0ffee", "packages": {"jax": "0.11"}, "devices": ["cpu"]}
    files = {
        "config.json": dict(job.resolved),
        "environment.json": about,
        "preprocessing.json": IMAGES | {"dataset_fingerprint": dataset},
    }
    for name, content in files.items():
        (job.run / name).write_text(json.dumps(content))
    if job.cell is None:
        (job.run / "checkpoints" / "5").mkdir(parents=True, exist_ok=True)
        (job.run / "checkpoints" / "5" / "digests.json").write_text("{}")
    else:
        rows = [
            {"subject": f"pseudonym{s}", "index": s, "plane": "sax", "phase": phase, "structure": structure,
             "dice": value(job.cell.values, s, structure, phase), "surface_dice": 0.9 - 0.01 * s, "hd95_mm": 5.0 + s,
             "hd95_directed_mm": 6.0, "assd_mm": 1.0, "missed": False, "spurious": False, "reference_ml": 100.0, "predicted_ml": 100.0 + s}
            for s in range(subjects) for structure in STRUCTURES for phase in ("ED", "ES")
        ]  # fmt: skip
        (job.run / "evaluation").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_csv(job.run / "evaluation" / "scores_test.csv", index=False)
        (job.run / "evaluation" / "summary_test.csv").write_text("")
        _measures(job.cell.values, subjects).to_csv(job.run / "evaluation" / "measures_test.csv", index=False)
        _positions(subjects).to_csv(job.run / "evaluation" / "positions_test.csv", index=False)
        (job.run / "evaluation" / "cases_test.npz").write_bytes(_cases(subjects))
    state.write(job, {"train": seconds, **({"evaluate": 5.0} if job.cell else {})}, done=True)


def begin(job: jobs.Job) -> None:
    """Writes the record of a job that was started."""
    state.write(job, {"train": 1.0})


def log(job: jobs.Job, lines: int = 4, levels: int = 1) -> None:
    """Writes what a training logs, a line per scalar's source at steps 10, 20, ...: `dice` rises by
    0.2 from 0.3 to 0.9, and alignment and CKA fall from 1 as 1 / line. levels: of the gradients.
    """
    rows: list[dict[str, float]] = []
    for line in range(1, lines + 1):
        norms = {f"train/grad_norm/encoder/stage{n}": 1.0 for n in range(levels)}
        rows.append({"step": 10 * line, "train/loss": 0.5, **norms})
        if job.cell is None:
            geometry = {"alignment": 1 / line, "uniformity_image": -float(line), "effective_rank_image": float(line)}
            rows.append({"step": 10 * line} | {f"val/info_nce/{name}": value for name, value in geometry.items()})
        else:
            rows.append({"step": 10 * line} | {f"dynamics/cka/level{n}": 1 / line for n in (1, 2)})
            rows.append({"step": 10 * line, "val/dice": 0.1, "val/dice/lv_cavity": 0.1})
            rows.append({"step": 10 * line, "val_ema/dice": min(0.1 + 0.2 * line, 0.9), "val_ema/dice/lv_cavity": 0.9})
    (job.run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def states(planned: list[jobs.Job]) -> dict[str, state.State]:
    return state.read_all(planned)
