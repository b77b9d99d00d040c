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
    "surface_dice": ("surface Dice", 3),
    "hd95_mm": ("HD95, mm", 1),
    "assd_mm": ("ASSD, mm", 2),
    "volume_error_ml": ("volume error, ml", 1),
}
LATER = "surface_dice"  # files of earlier versions lack it; reported where every done cell has it
KEYS = ["subject", "plane", "structure", "phase"]


def read(study: Study, jobs: Iterable[Job], states: Mapping[str, State]) -> pd.DataFrame:
    """A row per done cell, subject, plane, structure, phase and metric.

    Columns: task, the axes of the study, labels, dataset (fingerprint), KEYS, metric, value. A
    subject is its index in the dataset. Raises StudyError where no cell is done, or a score is no
    number that the metric can have.
    """
    frames = []
    for job in jobs:
        if job.cell is None or states[job.name].status != DONE:
            continue
        path = job.run / "evaluation" / f"scores_{study.evaluate['split']}.csv"
        frames.append(_long(path).assign(**job.cell.values, labels=job.cell.labels, dataset=_dataset(job.run)))
    if not frames:
        raise StudyError(f"{study.folder}: no cell is done; run the study first")
    columns = ["task", *study.axes, "labels", "dataset", *KEYS, "metric", "value"]
    long = pd.concat(frames, ignore_index=True).assign(task="segmentation")[columns]
    everywhere = all((frame["metric"] == LATER).any() for frame in frames)
    return long if everywhere else long[long["metric"] != LATER].reset_index(drop=True)


def matrix(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of each run (labelled set, seed) and subject: phases first, then structures.

    Structures without a value are left out of a subject's mean. NaN where a run lacks a subject.
    """
    rows = scores[scores["metric"] == metric].dropna(subset="value")
    per_structure = rows.groupby([LABELLED, SEED, "subject", "plane", "structure"])["value"].mean()
    return per_structure.groupby([LABELLED, SEED, "subject"]).mean().unstack("subject")


def _long(path: Path) -> pd.DataFrame:
    wide = pd.read_csv(path).drop(columns="subject").rename(columns={"index": "subject"})  # no pseudonym
    sizes = wide.reindex(columns=["predicted_ml", "reference_ml"])
    wide["volume_error_ml"] = (sizes["predicted_ml"] - sizes["reference_ml"]).abs()
    if unknown := set(wide["structure"]) - set(anatomy.STRUCTURES):
        raise StudyError(
            f"{path}: unknown structure {sorted(map(str, unknown))[0]!r}; remove the run's directory to run the cell again"
        )
    metrics = [metric for metric in METRICS if metric in wide or metric != LATER]
    fractions = wide[[metric for metric in metrics if metric.endswith("dice")]]
    if (fractions > 1).any(axis=None) or (wide[metrics] < 0).any(axis=None):
        raise StudyError(
            f"{path}: holds a Dice outside 0 to 1 or a negative distance; remove the run's directory to run the cell again"
        )
    return wide.melt(id_vars=KEYS, value_vars=metrics, var_name="metric")


def _dataset(run: Path) -> str:
    return json.loads((run / "preprocessing.json").read_text())["dataset_fingerprint"]
