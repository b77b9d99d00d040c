"""The scores of all cells of a study as one long table, and as matrices of runs x subjects."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from analysis.study.errors import StudyError
from analysis.study.jobs import Job
from analysis.study.spec import LABELLED, SEED, Study
from analysis.study.state import DONE, State
from morphojax import anatomy

# Column of scores_<split>.csv -> heading and digits. volume_error_ml is the absolute error of a
# structure's volume at one phase; a long-axis plane has none.
METRICS = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95, mm", 1),
    "assd_mm": ("ASSD, mm", 2),
    "volume_error_ml": ("volume error, ml", 1),
}
KEYS = ["subject", "plane", "structure", "phase"]


def read(study: Study, jobs: Iterable[Job], states: Mapping[str, State]) -> pd.DataFrame:
    """A row per done cell, subject, plane, structure, phase and metric.

    Columns: task, the axes of the study, labels, dataset (fingerprint), KEYS, metric, value. A
    subject is its index in the dataset. Raises StudyError where no cell is done, or a score is no
    number that the metric can have.
    """
    frames = []
    for job in jobs:
        if job.cell is None or states[job.name].word != DONE:
            continue
        path = job.run / "evaluation" / f"scores_{study.evaluate['split']}.csv"
        frames.append(_long(path).assign(**job.cell.values, labels=job.cell.labels, dataset=_dataset(job.run)))
    if not frames:
        raise StudyError(f"{study.folder}: no cell is done; run the study first")
    columns = ["task", *study.axes, "labels", "dataset", *KEYS, "metric", "value"]
    return pd.concat(frames, ignore_index=True).assign(task="segmentation")[columns]


def matrix(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of each run (labelled set, seed) and subject: phases first, then structures.

    NaN where a run lacks a subject, or a value of a structure that it has elsewhere.
    """
    rows = scores[scores["metric"] == metric].dropna(subset="value")
    per_structure = rows.groupby([LABELLED, SEED, "subject", "plane", "structure"])["value"].mean()
    return per_structure.groupby([LABELLED, SEED, "subject"]).mean().unstack("subject")


def _long(path: Path) -> pd.DataFrame:
    wide = pd.read_csv(path).drop(columns="subject").rename(columns={"index": "subject"})  # no pseudonym
    sizes = wide.reindex(columns=["predicted_ml", "reference_ml"])
    wide["volume_error_ml"] = (sizes["predicted_ml"] - sizes["reference_ml"]).abs()
    if unknown := set(wide["structure"]) - set(anatomy.STRUCTURES):
        raise StudyError(f"{path}: unknown structure {sorted(map(str, unknown))[0]!r}; score the run again")
    if not wide["dice"].dropna().between(0, 1).all() or (wide[list(METRICS)] < 0).any(axis=None):
        raise StudyError(f"{path}: holds a Dice outside 0 to 1 or a negative distance; score the run again")
    return wide.melt(id_vars=KEYS, value_vars=list(METRICS), var_name="metric")


def _dataset(run: Path) -> str:
    return json.loads((run / "preprocessing.json").read_text())["dataset_fingerprint"]
