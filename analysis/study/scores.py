"""The scores of all cells of a study as one long table, and as matrices of runs x subjects."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.study.errors import StudyError
from analysis.study.jobs import Job
from analysis.study.spec import LABELLED, SEED, Cell, Study
from analysis.study.state import DONE, OPTIONAL, State, scoring_file
from morphojax import anatomy
from morphojax.evaluation import summary
from morphojax.reports import one

# Column of scores_<split>.csv -> heading and digits. volume_error_ml is the absolute error of a
# structure's volume at one phase; a long-axis plane has none.
METRICS = one.METRICS | {"volume_error_ml": ("volume error, ml", 1)}
LATER = "surface_dice"  # files of earlier versions lack it; reported where every done cell has it
# Measure of measures_<split>.csv -> metric of its absolute error.
_ERRORS = {
    "lv_ef_percent": "lv_ef_error_percent_points",
    "lv_edv_ml": "lv_edv_error_ml",
    "lv_mass_g": "lv_mass_error_g",
    "rv_ef_percent": "rv_ef_error_percent_points",
    "rv_edv_ml": "rv_edv_error_ml",
}
CLINICAL = {
    "lv_ef_error_percent_points": ("LV EF error, % points", 1),
    "lv_edv_error_ml": ("LV EDV error, ml", 1),
    "lv_mass_error_g": ("LV mass error, g", 1),
    "rv_ef_error_percent_points": ("RV EF error, % points", 1),
    "rv_edv_error_ml": ("RV EDV error, ml", 1),
}
# 1 where the prediction gives no EF although the reference does, else 0.
NOT_COMPUTED = {
    "lv_ef_not_computed": ("no LV EF, fraction", 3),
    "rv_ef_not_computed": ("no RV EF, fraction", 3),
}
# By position of positions_<split>.csv.
POSITIONS = {
    "dice_base": ("Dice, base", 3),
    "dice_middle": ("Dice, middle", 3),
    "dice_apex": ("Dice, apex", 3),
}
HEADINGS = METRICS | CLINICAL | NOT_COMPUTED | POSITIONS
KEYS = ["subject", "plane", "structure", "phase"]
_AGAIN = "remove the run's directory to run the cell again"


def read(study: Study, jobs: Iterable[Job], states: Mapping[str, State]) -> pd.DataFrame:
    """A row per done cell, subject, plane, structure, phase and metric.

    Columns: task, the axes of the study, labels, dataset (fingerprint), KEYS, metric, value. A
    subject is its index in the dataset. Metrics: those of HEADINGS that the files hold. Raises
    StudyError where no cell is done, or a score is no number that the metric can have.
    """
    frames = []
    for job, cell in scored(jobs, states):
        rows = pd.concat(_of_cell(job.run, study.evaluate["split"]), ignore_index=True)
        frames.append(rows.assign(**cell.values, labels=cell.labels, dataset=_dataset(job.run)))
    if not frames:
        raise StudyError(f"{study.folder}: no cell is done; run the study first")
    columns = ["task", *study.axes, "labels", "dataset", *KEYS, "metric", "value"]
    long = pd.concat(frames, ignore_index=True).assign(task="segmentation")[columns]
    everywhere = all((frame["metric"] == LATER).any() for frame in frames)
    return long if everywhere else long[long["metric"] != LATER].reset_index(drop=True)


def scored(jobs: Iterable[Job], states: Mapping[str, State]) -> Iterator[tuple[Job, Cell]]:
    """The cells that are done."""
    return ((job, job.cell) for job in jobs if job.cell is not None and states[job.name].status == DONE)


def lacking(study: Study, jobs: Iterable[Job], states: Mapping[str, State]) -> dict[str, list[str]]:
    """Name of OPTIONAL -> the done cells whose scoring did not write it."""
    done = [job for job, _ in scored(jobs, states)]
    return {
        name: [job.name for job in done if not scoring_file(job.run, name, study.evaluate["split"]).is_file()]
        for name in OPTIONAL
    }


def matrix(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of each run (labelled set, seed) and subject: phases first, then structures.

    Structures without a value are left out of a subject's mean. NaN where a run lacks a subject.
    """
    rows = scores[scores["metric"] == metric].dropna(subset="value")
    per_structure = rows.groupby([LABELLED, SEED, "subject", "plane", "structure"])["value"].mean()
    return per_structure.groupby([LABELLED, SEED, "subject"]).mean().unstack("subject")


def _of_cell(run: Path, split: str) -> Iterator[pd.DataFrame]:
    """Rows of KEYS, metric and value, from each file of a scoring."""
    yield _of_stacks(scoring_file(run, "scores", split))
    for name, rows in (("measures", _of_measures), ("positions", _of_positions)):
        path = scoring_file(run, name, split)
        if path.is_file():
            yield rows(path)


def _of_stacks(path: Path) -> pd.DataFrame:
    wide = _table(path, ("plane", "structure", "phase", "dice"))
    sizes = wide.reindex(columns=["predicted_ml", "reference_ml"])
    wide["volume_error_ml"] = (sizes["predicted_ml"] - sizes["reference_ml"]).abs()
    metrics = [metric for metric in METRICS if metric in wide or metric != LATER]
    _check(path, wide, metrics)
    return wide.melt(id_vars=KEYS, value_vars=metrics, var_name="metric")


def _of_measures(path: Path) -> pd.DataFrame:
    """Absolute errors of the measures in _ERRORS, and NOT_COMPUTED (`summary.errors`). structure
    and phase are empty.
    """
    table = _table(path, ("plane", "measure", "reference", "predicted"))
    table = summary.errors(table[table["measure"].isin(_ERRORS)].assign(structure="", phase=""))
    long = table.assign(metric=table["measure"].map(_ERRORS), value=table["error"])
    is_ef = table["measure"].str.endswith("_ef_percent")
    names = table["measure"].str.replace("_percent", "_not_computed")
    counts = table.assign(metric=names, value=table["not_computed"])[is_ef]
    return pd.concat([long, counts])[[*KEYS, "metric", "value"]]


def _of_positions(path: Path) -> pd.DataFrame:
    table = _table(path, ("plane", "structure", "phase", "position", "dice"))
    _check(path, table, ["dice"])
    return table.assign(metric="dice_" + table["position"], value=table["dice"])[[*KEYS, "metric", "value"]]


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A file of a scoring, with the subject's index instead of its pseudonym. Raises StudyError
    where it lacks a column.
    """
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:  # nothing was measured
        table = pd.DataFrame(columns=pd.Index(["subject", "index", *columns]))
    if absent := [name for name in ("subject", "index", *columns) if name not in table]:
        raise StudyError(f"{path}: has no column {absent[0]!r}; {_AGAIN}")
    return table.drop(columns="subject").rename(columns={"index": "subject"})


def _check(path: Path, table: pd.DataFrame, metrics: Sequence[str]) -> None:
    """Raises StudyError for a structure or a score that cannot be."""
    if unknown := set(table["structure"]) - set(anatomy.STRUCTURES):
        raise StudyError(f"{path}: unknown structure {sorted(map(str, unknown))[0]!r}; {_AGAIN}")
    fractions = table[[metric for metric in metrics if metric.endswith("dice")]]
    if (fractions > 1).any(axis=None) or (table[metrics] < 0).any(axis=None):
        raise StudyError(f"{path}: holds a Dice outside 0 to 1 or a negative distance; {_AGAIN}")


def _dataset(run: Path) -> str:
    return json.loads((run / "preprocessing.json").read_text())["dataset_fingerprint"]
