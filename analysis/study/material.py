"""The data card of a report: datasets, subjects, and what the runs were given of the table.

It reads files of the runs, and the manifests of datasets that are still there.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.study.jobs import Job
from analysis.study.scores import scored
from analysis.study.spec import ARM, LABELLED, Study
from analysis.study.state import State
from morphojax import anatomy
from morphojax.data.store.manifest import Manifest
from morphojax.data.store.splits import SPLITS
from morphojax.reports import datasets
from morphojax.reports.document import Block, Section
from morphojax.tasks.segment import unlabelled
from morphojax.train import lineage
from morphojax.train.run import RunError, read_json

LEAK = "segmentation"  # of a column that was measured on masks (`Column.leak`)
_IMAGES = {
    "dataset_fingerprint": str,
    "planes": [str],
    "structures": [str],
    "grid": {"spacing_mm": float, "size": int},
    "measures?": [str],
}


@dataclasses.dataclass(frozen=True)
class _Cohort:
    """A dataset of the runs. manifest: None where it is gone; why says so."""

    name: str
    images: Mapping[str, Any]
    manifest: Manifest | None
    why: str


def section(study: Study, jobs: Sequence[Job], states: Mapping[str, State], long: pd.DataFrame) -> Section:
    """Of the cells that are done."""
    done = [job for job, _ in scored(jobs, states)]
    cohorts = list(_cohorts(done))
    blocks = [
        _images(cohorts),
        _labelled(study, done, long),
        _arms(study, done),
        Block("list", lines=[*(c.why for c in cohorts if c.why), *_leaks(study, done, cohorts)]),
    ]
    return Section("Data", blocks)


def _cohorts(done: Iterable[Job]) -> Iterator[_Cohort]:
    seen = set()
    for job in done:
        images = _preprocessing(job)
        data = job.resolved["data"]
        key = str(data["dataset"]), images["dataset_fingerprint"], tuple(images["planes"])
        if key not in seen:
            seen.add(key)
            yield _Cohort(key[0], images, *datasets.manifest_of(data, images))


def _images(cohorts: Sequence[_Cohort]) -> Block:
    head = ["dataset", "fingerprint", "source", "planes", "grid", "structures", f"subjects ({', '.join(SPLITS)})"]
    rows = []
    for each in cohorts:
        images, manifest = each.images, each.manifest
        size = images["grid"]["size"]
        names = [anatomy.LABEL_NAME.get(s, s) for s in images["structures"]]
        row = [each.name, images["dataset_fingerprint"], "" if manifest is None else manifest.source]
        row += [", ".join(images["planes"]), f"{size} x {size} pixels of {images['grid']['spacing_mm']:g} mm"]
        counts = {} if manifest is None else manifest.counts.get("subjects", {})
        rows.append(
            [*row, ", ".join(names), ", ".join(str(counts.get(split, "")) for split in SPLITS) if counts else ""]
        )
    return Block("table", head=head, rows=rows)


def _labelled(study: Study, done: Sequence[Job], long: pd.DataFrame) -> Block:
    """A row per labelled set: its subjects, and those that were scored."""
    counts = long[long["metric"] == "dice"].groupby(LABELLED)["subject"].nunique()
    rows = []
    for name in study.axes[LABELLED]:
        members = [job for job in done if job.cell is not None and job.cell.values[LABELLED] == name]
        if members:
            data, labels = members[0].resolved["data"], members[0].cell and members[0].cell.labels
            chosen = datasets.who(data["splits"], data["subjects"], data["fraction"])
            rows.append([name, "" if labels is None else f"{labels:g}", chosen, str(counts.get(name, 0))])
    return Block("table", head=["labelled set", "labelled", "chosen", f"scored ({study.evaluate['split']})"], rows=rows)


def _arms(study: Study, done: Sequence[Job]) -> Block:
    """A row per arm, by its first run: the subjects and the columns that it was given."""
    rows = []
    for arm in study.axes[ARM]:
        job = next((job for job in done if job.cell is not None and job.cell.values[ARM] == arm), None)
        if job is not None:
            rows.append([arm, _pretraining(job), _unlabelled(job), _columns(job)])
    return Block("table", head=["arm", "pretrained on", "unlabelled", "given of the table"], rows=rows)


def _pretraining(job: Job) -> str:
    if job.needs is not None:
        data = job.needs.resolved["data"]
        return datasets.who(data["splits"], data["subjects"], data["fraction"])
    return f"weights of {job.resolved['init_from']}" if job.resolved["init_from"] else "nothing"


def _unlabelled(job: Job) -> str:
    settings = job.resolved["unlabelled"]
    if not settings["batch_size"]:
        return "none"
    return datasets.who(job.resolved["data"]["splits"], settings["subjects"]) + ", without the labelled"


def _columns(job: Job) -> str:
    """The table columns of a run's training, and the control that they were under."""
    parts = []
    columns = "" if job.needs is None else _of_pretraining(job.needs)[0]
    if columns:
        parts.append(f"pretraining: {columns}")
    elif job.needs is not None and (control := job.needs.resolved["table"]["control"]) != "none":
        parts.append(f"pretraining: rows under the control {control!r}")
    if _reads_volumes(job):
        control = job.resolved["unlabelled"]["control"]
        parts.append("fine-tuning: volumes of unlabelled subjects" + (f", control {control!r}" * (control != "none")))
    if measures := _preprocessing(job).get("measures"):
        parts.append(f"also at test time: {', '.join(measures)}")
    return "; ".join(parts) or "nothing"


def _of_pretraining(job: Job) -> tuple[str, tuple[str, ...]]:
    """The table columns that a pretraining was given, in words, and the splits that it was trained
    on.
    """
    if not job.run.is_dir():
        return "not known, the run was removed", ()
    try:
        fingerprint = _preprocessing(job)["dataset_fingerprint"]
        return ", ".join(lineage.columns_given(job.run)), lineage.trained_on(job.run, fingerprint)
    except RunError as error:
        return f"not known ({error})", ()


def _reads_volumes(job: Job) -> bool:
    settings = job.resolved["unlabelled"]
    if not settings["batch_size"]:
        return False
    objectives = unlabelled.from_config(settings["objectives"]).values()
    return settings["teacher"]["calibrate"] or any(objective.volumes for objective in objectives)


def _leaks(study: Study, done: Sequence[Job], cohorts: Sequence[_Cohort]) -> Iterator[str]:
    for each in cohorts:
        if each.manifest is not None:
            names = [column.name for column in each.manifest.schema.columns if LEAK in column.leak]
            total = len(each.manifest.schema.columns)
            yield (
                f"{each.name}: {len(names)} of {total} columns of the table were measured on masks (leak {LEAK!r}): "
                f"{', '.join(names)}. Each is a weak label of its subject."
                if names
                else f"{each.name}: none of the {total} columns of the table was measured on masks (leak {LEAK!r})."
            )
    split = study.evaluate["split"]
    pretrainings = {job.needs.name: job.needs for job in done if job.needs is not None}
    own = [job.name for job in done if split in job.resolved["data"]["splits"]]
    leaking = own + [name for name, job in pretrainings.items() if split in _of_pretraining(job)[1]]
    yield (
        f"Trained on subjects of the {split} split, so not scores of unseen hearts: {', '.join(leaking)}."
        if leaking
        else f"No run, and no pretraining that is still there, was trained on the {split} split."
    )


def _preprocessing(job: Job) -> Mapping[str, Any]:
    return read_json(job.run, "preprocessing.json", _IMAGES)
