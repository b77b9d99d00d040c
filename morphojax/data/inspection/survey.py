"""Looks at every image of a raw cohort or a dataset. A subject is its index, in id order."""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.geometry import Grid, Placement, place
from morphojax.data.prepare.checks import check_frame, describe_error
from morphojax.data.prepare.workers import map_subjects
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import CohortError, Source
from morphojax.data.store.dataset import Dataset, decode_native
from morphojax.data.store.records import Records
from morphojax.data.tables import cells
from morphojax.progress import bar as progress_bar

SHEET_COLUMNS = 6
_SHEET_STACKS = 12  # per plane
_ANY_GRID = Grid(1.0, 1)
# Files by which a cohort's layout is recognised. The strictest come first: other layouts also
# contain files with the names of UK Biobank's.
_MARKS = {
    "synthetic": ("cohort.json",),
    "nifti_table": ("mapping.csv",),
    "mnms2": ("dataset_information.csv",),
    "mnms": ("*M&Ms*nformation*.csv",),
    "acdc": ("*/Info.cfg", "training/*/Info.cfg", "testing/*/Info.cfg"),
    "sunnybrook": ("participants.csv",),
    "ukb_dicom": ("*_2020[89]_*.zip", "*/*_2020[89]_*.zip"),
    "ukb_nifti": ("*/sa*.nii*", "*/la_[24]ch*.nii*"),
}
# Endings of warnings that the report leaves out: its counts of planes and phases show them.
_SHOWN_BY_COUNTS = (": no images", ": no cine", ": no ES image")

STACK_COLUMNS = (
    *("subject", "plane", "phase", "phase_from", "failed", "x", "y", "slices"),
    *("spacing_x_mm", "spacing_y_mm", "slice_gap_mm", "orientation"),
    *("cine_frames", "constant", "structures", "labelled_slices", "skipped_slices"),
    *(f"{s}_{unit}" for unit in ("ml", "cm2") for s in anatomy.STRUCTURES),
)


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an inspection found.

    ids: of the subjects, by index. It and `failures` may name people: for the user's terminal, on
        request.
    stacks: a row per image at ED, mid or ES, with STACK_COLUMNS and `digest` (hash of the voxels).
        `cine_frames` counts the other frames of its cine; a size (in a long-axis plane an area)
        is NaN where its structure is not annotated; a subject that cannot be read has one row, with
        its index and `failed`.
    failures: why a subject cannot be read, by index.
    warnings: subjects per message.
    columns: `cells.describe` of the table.
    without_row: indices of subjects with images but no table row.
    """

    source: str
    ids: tuple[str, ...]
    planes: tuple[str, ...]
    stacks: pd.DataFrame
    failures: Mapping[int, str]
    warnings: Mapping[str, int]
    columns: pd.DataFrame | None
    without_row: tuple[int, ...]
    rows_without_images: int


def recognise(root: Path) -> str:
    """The source whose layout a folder has. Raises CohortError where it has none of them."""
    if not root.is_dir():
        raise CohortError(f"{root}: no such folder")
    for name, marks in _MARKS.items():
        if any(any(root.glob(mark)) for mark in marks):
            return name
    raise CohortError(
        f"{root}: looks like no cohort that is known; name it with --source, among {', '.join(sorted(SOURCES))}"
    )


@dataclasses.dataclass(frozen=True)
class _Inspection:
    """What a worker process needs to inspect any one subject of a raw cohort."""

    source: Source
    planes: tuple[str, ...]

    def inspect(self, subject: str) -> tuple[list[dict[str, Any]], tuple[str, ...]] | str:
        """A row per image and the reader's warnings, or why the subject cannot be read."""
        try:
            contents = self.source.read(subject, self.planes)
            if not contents.views:
                raise CohortError(f"no images of {', '.join(self.planes)}")
            rows = []
            for plane, view in contents.views.items():
                for frame in view.frames:
                    check_frame(plane, frame)
                    placement = place(frame.image, frame.affine, _ANY_GRID)
                    row = {"plane": plane, "phase": frame.phase, "phase_from": frame.phase_from}
                    row |= {"cine_frames": len(view.cine)}
                    rows.append(row | _image(frame.image) | _measure(frame.label, view.labelled, placement, plane))
        except Exception as error:  # as in prepare: the failure of this subject alone
            return describe_error(error)
        return rows, tuple(w for w in contents.warnings if not w.endswith(_SHOWN_BY_COUNTS))


def of_source(
    source: Source, name: str, planes: Sequence[str] = anatomy.PLANES, workers: int | None = None, progress: bool = True
) -> Findings:
    """Inspects every subject of a raw cohort, in processes (default: one per CPU).

    `cine_frames` is the length of the cines where the source was built with frames="all".
    Raises CohortError for problems of the whole cohort.
    """
    ids, table = tuple(source.subjects()), source.table()
    index = {subject: i for i, subject in enumerate(ids)}
    rows, failures, warnings = [], {}, Counter[str]()
    with progress_bar(total=len(ids), desc="inspect", unit="subject", show=progress) as bar:
        for subject, result in map_subjects(_Inspection(source, tuple(planes)).inspect, ids, workers):
            bar.update()
            if isinstance(result, str):
                failures[index[subject]] = result
                rows.append({"subject": index[subject], "failed": True})
                continue
            images, of_reader = result
            rows += [{"subject": index[subject], "failed": False} | row for row in images]
            warnings.update(set(of_reader))
    columns, without_row, rows_without_images = None, (), 0
    if table is not None:
        frame, schema = table
        columns = cells.describe(frame.loc[[i for i in ids if i in frame.index]], schema)
        without_row = tuple(index[i] for i in ids if i not in frame.index)
        rows_without_images = sum(i not in index for i in frame.index)
    return Findings(
        source=name,
        ids=ids,
        planes=tuple(planes),
        stacks=_frame(rows),
        failures=dict(sorted(failures.items())),
        warnings=dict(sorted(warnings.items())),
        columns=columns,
        without_row=without_row,
        rows_without_images=rows_without_images,
    )


def of_dataset(dataset: Dataset, planes: Sequence[str] | None = None, progress: bool = True) -> Findings:
    """Inspects every stack of a prepared dataset. Raises DatasetError for a plane it lacks."""
    manifest = dataset.manifest
    planes = tuple(planes or manifest.planes)
    rows, total = [], sum(len(dataset.stacks(p)) for p in planes)
    with progress_bar(total=total, desc="inspect", unit="stack", show=progress) as bar:
        for plane in planes:
            native, slices = Records(dataset.root, manifest.native[plane]), dataset.slices(plane)
            stacks = dataset.stacks(plane)
            cine_frames = stacks[stacks["phase"].map(anatomy.is_cine_phase)].groupby("subject").size()
            for number, stack in enumerate(stacks.to_dict("records")):
                bar.update()
                if anatomy.is_cine_phase(stack["phase"]):
                    continue
                label, placement = decode_native(native[number])
                images = [slices[stack["first"] + z]["image"] for z in range(stack["slices"])]
                row = {key: stack[key] for key in ("subject", "phase", "phase_from")}
                row |= {"plane": plane, "failed": False}
                row |= {"cine_frames": int(cine_frames.get(stack["subject"], 0))}
                rows.append(
                    row | _image(np.stack(images)) | _measure(label, stack["structures"].split(), placement, plane)
                )
    has_table = bool(dataset.schema.columns)
    empty = dataset.table.isna().all(axis=1) if has_table else pd.Series(dtype=bool)
    return Findings(
        source=manifest.source,
        ids=dataset.subjects,
        planes=planes,
        stacks=_frame(rows),
        failures={},
        warnings=Counter(manifest.warnings),
        columns=cells.describe(dataset.table, dataset.schema) if has_table else None,
        without_row=tuple(np.flatnonzero(empty).tolist()),
        rows_without_images=int(manifest.counts["rows_without_images"]),
    )


def tiles(dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """(image, label, title) of the slices of a contact sheet.

    They come from stacks at ED, mid or ES spread over each plane, labelled ones where there are
    any. Titles hold the subject's index, never its name.
    """
    sheet = []
    for plane in dataset.manifest.planes:
        stacks, slices = dataset.stacks(plane), dataset.slices(plane)
        stacks = stacks[stacks["phase"].isin(anatomy.PHASES)]
        stacks = stacks[stacks["labelled"]] if stacks["labelled"].any() else stacks
        rows = np.unique(np.linspace(0, len(stacks) - 1, min(_SHEET_STACKS, len(stacks))).astype(int))
        for stack in stacks.iloc[rows].to_dict("records"):
            first, count = int(stack["first"]), int(stack["slices"])
            for position in (0.25, 0.5, 0.75) if count >= 3 else (0.5,):
                z = int(position * (count - 1))
                record = slices[first + z]
                sheet.append((record["image"], record["label"], f"#{stack['subject']} {plane} {stack['phase']} z{z}"))
    return sheet


def _image(image: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return {"constant": bool(image.min() == image.max()), "digest": digest}


def _measure(label: np.ndarray | None, annotated: Sequence[str], placement: Placement, plane: str) -> dict[str, Any]:
    """Geometry and label of a stack. An empty slice between labelled ones counts as skipped."""
    x, y, z = placement.native_spacing
    row: dict[str, Any] = dict(zip(("x", "y", "slices"), placement.shape, strict=True))
    row |= {"spacing_x_mm": x, "spacing_y_mm": y, "slice_gap_mm": z, "orientation": _orientation(placement)}
    if label is None:
        return row | {"structures": ""}
    counts = np.bincount(label.ravel(), minlength=len(anatomy.STRUCTURES) + 1)
    labelled = np.flatnonzero(label.any(axis=(0, 1)))
    skipped = int(labelled[-1] - labelled[0] + 1 - len(labelled)) if len(labelled) else 0
    row |= {"structures": " ".join(annotated), "labelled_slices": len(labelled), "skipped_slices": skipped}
    unit = anatomy.size_unit(plane)
    voxel = x * y / 100 if unit == "cm2" else x * y * z / 1000
    return row | {f"{s}_{unit}": counts[anatomy.LABEL_ID[s]] * voxel for s in annotated}


def _orientation(placement: Placement) -> str:
    """The anatomical direction nearest to each axis: LPS is left, posterior, superior."""
    cosines = np.array(placement.affine)[:3, :3] / placement.native_spacing
    nearest = max(itertools.permutations(range(3)), key=lambda worlds: np.abs(cosines[worlds, (0, 1, 2)]).sum())
    return "".join(("LR", "PA", "IS")[world][int(cosines[world, axis] > 0)] for axis, world in enumerate(nearest))


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows with STACK_COLUMNS and `digest`, ordered by subject, plane and phase."""
    frame = pd.DataFrame(list(rows), columns=[*STACK_COLUMNS, "digest"])
    phases = {phase: i for i, phase in enumerate(anatomy.PHASES)}
    order = frame.assign(phase=frame["phase"].map(phases), plane=frame["plane"].map(anatomy.PLANES.index, "ignore"))
    return frame.loc[order.sort_values(["subject", "plane", "phase"], kind="stable").index].reset_index(drop=True)
