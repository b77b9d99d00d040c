"""What a raw cohort or a prepared dataset holds, before anything is computed with it. A subject is its index, in the order of the ids."""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data.geometry import Grid, Placement, place
from morphojax.data.prepare.partials import check_shown, results
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import CohortError, Source
from morphojax.data.store.dataset import Dataset, decode_native
from morphojax.data.store.records import Records
from morphojax.data.tables import cells

SHEET_COLUMNS = 6
_SHEET_STACKS = 12  # per plane
_ANY_GRID = Grid(1.0, 1)
# What a cohort is known by, the strictest first: others have files of the UK Biobank names too.
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
_SEEN_IN_COUNTS = (": no images", ": no cine", ": no ES image")  # of warnings: the counts of planes and phases say it

STACK_COLUMNS = (
    *(
        "subject",
        "plane",
        "phase",
        "phase_from",
        "failed",
        "x",
        "y",
        "slices",
        "spacing_x_mm",
        "spacing_y_mm",
        "slice_gap_mm",
        "orientation",
    ),
    *("cine_frames", "constant", "structures", "labelled_slices", "skipped_slices"),
    *(f"{s}_ml" for s in anatomy.STRUCTURES),
)


@dataclasses.dataclass(frozen=True)
class Findings:
    """`stacks` has a row per image of STACK_COLUMNS (volumes NaN where nobody drew the structure) and `digest`, of the voxels; one of a
    subject that cannot be read holds its index and `failed` alone. `failures` (why, by index) and `ids` may name people: they are for the
    user's terminal, if asked. Of a cine, `stacks` has the frames with a name; `cine_frames` counts the others."""

    source: str
    ids: tuple[str, ...]
    planes: tuple[str, ...]
    stacks: pd.DataFrame
    failures: Mapping[int, str]
    warnings: Mapping[str, int]
    columns: pd.DataFrame | None  # `table.describe`
    without_row: tuple[int, ...]
    rows_without_images: int


def recognise(root: Path) -> str:
    """The source that a folder looks to be of. Raises CohortError where it looks like none."""
    if not root.is_dir():
        raise CohortError(f"{root}: no such folder")
    for name, marks in _MARKS.items():
        if any(any(root.glob(mark)) for mark in marks):
            return name
    raise CohortError(
        f"{root}: looks like no cohort that is known; name it with --source, among {', '.join(sorted(SOURCES))}"
    )


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a worker process needs to know to look at any one subject."""

    source: Source
    planes: tuple[str, ...]

    def run(self, subject: str) -> tuple[list[dict[str, Any]], tuple[str, ...]] | str:
        """A row per image and the reader's warnings, or why there are none."""
        try:
            found = self.source.read(subject, self.planes)
            if not found.views:
                raise CohortError(f"no images of {', '.join(self.planes)}")
            rows = []
            for plane, view in found.views.items():
                for frame in view.frames:
                    check_shown(plane, frame)
                    placement = place(frame.image, frame.affine, _ANY_GRID)
                    about = {"plane": plane, "phase": frame.phase, "phase_from": frame.phase_from}
                    about |= {"cine_frames": len(view.cine)}
                    rows.append(about | _image(frame.image) | _measure(frame.label, view.labelled, placement))
        except (ValueError, OSError, MemoryError) as error:
            return str(error) or repr(error)
        return rows, tuple(w for w in found.warnings if not w.endswith(_SEEN_IN_COUNTS))


def of_source(
    source: Source, name: str, planes: Sequence[str] = anatomy.PLANES, workers: int | None = None, progress: bool = True
) -> Findings:
    """Looks at every subject of a raw cohort, in processes (default: one per CPU). A source built with frames="all" tells the length of its
    cines. Raises CohortError for what concerns the cohort as a whole."""
    ids, found = tuple(source.subjects()), source.table()
    index = {subject: i for i, subject in enumerate(ids)}
    rows, failures, warnings = [], {}, Counter[str]()
    with tqdm(total=len(ids), desc="inspect", unit="subject", disable=not progress) as bar:
        for subject, seen in results(_Look(source, tuple(planes)).run, ids, workers):
            bar.update()
            if isinstance(seen, str):
                failures[index[subject]] = seen
                rows.append({"subject": index[subject], "failed": True})
                continue
            rows += [{"subject": index[subject], "failed": False} | row for row in seen[0]]
            warnings.update(set(seen[1]))
    columns, without_row, spare = None, (), 0
    if found is not None:
        frame, schema = found
        columns = cells.describe(frame.loc[[i for i in ids if i in frame.index]], schema)
        without_row = tuple(index[i] for i in ids if i not in frame.index)
        spare = sum(i not in index for i in frame.index)
    stacks, failures = _stacks(rows), dict(sorted(failures.items()))
    return Findings(
        name, ids, tuple(planes), stacks, failures, dict(sorted(warnings.items())), columns, without_row, spare
    )


def of_dataset(dataset: Dataset, planes: Sequence[str] | None = None, progress: bool = True) -> Findings:
    """Looks at every stack of a prepared dataset. Raises DatasetError, also for a plane that it does not hold."""
    manifest = dataset.manifest
    planes = tuple(planes or manifest.planes)
    rows = []
    with tqdm(
        total=sum(len(dataset.stacks(p)) for p in planes), desc="inspect", unit="stack", disable=not progress
    ) as bar:
        for plane in planes:
            native, slices = Records(dataset.root, manifest.native[plane]), dataset.slices(plane)
            stacks = dataset.stacks(plane)
            cines = stacks[stacks["phase"].map(anatomy.is_cine_phase)].groupby("subject").size()
            for row, stack in enumerate(stacks.to_dict("records")):
                bar.update()
                if anatomy.is_cine_phase(stack["phase"]):
                    continue
                label, placement = decode_native(native[row])
                images = [slices[stack["first"] + z]["image"] for z in range(stack["slices"])]
                about = {key: stack[key] for key in ("subject", "phase", "phase_from")} | {
                    "plane": plane,
                    "failed": False,
                }
                about["cine_frames"] = int(cines.get(stack["subject"], 0))
                rows.append(about | _image(np.stack(images)) | _measure(label, stack["structures"].split(), placement))
    warnings = Counter(manifest.warnings)
    columns = cells.describe(dataset.table, dataset.schema) if dataset.schema.columns else None
    bare = dataset.table.isna().all(axis=1) if dataset.schema.columns else pd.Series(dtype=bool)
    without_row, spare = tuple(np.flatnonzero(bare).tolist()), int(manifest.counts["rows_without_images"])
    return Findings(manifest.source, dataset.subjects, planes, _stacks(rows), {}, warnings, columns, without_row, spare)


def tiles(dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Slices for a contact sheet, of stacks spread over each plane, of the phases with a name, labelled ones first; titles give the
    subject's index, never its id."""
    found = []
    for plane in dataset.manifest.planes:
        stacks, slices = dataset.stacks(plane), dataset.slices(plane)
        stacks = stacks[stacks["phase"].isin(anatomy.PHASES)]
        stacks = stacks[stacks["labelled"]] if stacks["labelled"].any() else stacks
        rows = np.unique(np.linspace(0, len(stacks) - 1, min(_SHEET_STACKS, len(stacks))).astype(int))
        for stack in stacks.iloc[rows].to_dict("records"):
            first, count = int(stack["first"]), int(stack["slices"])
            for share in (0.25, 0.5, 0.75) if count >= 3 else (0.5,):
                z = int(share * (count - 1))
                record = slices[first + z]
                found.append((record["image"], record["label"], f"#{stack['subject']} {plane} {stack['phase']} z{z}"))
    return found


def _image(image: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return {"constant": bool(image.min() == image.max()), "digest": digest}


def _measure(label: np.ndarray | None, annotated: Sequence[str], placement: Placement) -> dict[str, Any]:
    """Geometry and label of a stack. A slice between labelled ones that has nothing drawn is skipped."""
    x, y, z = placement.native_spacing
    row: dict[str, Any] = dict(zip(("x", "y", "slices"), placement.shape, strict=True))
    row |= {"spacing_x_mm": x, "spacing_y_mm": y, "slice_gap_mm": z, "orientation": _orientation(placement)}
    if label is None:
        return row | {"structures": ""}
    counts = np.bincount(label.ravel(), minlength=len(anatomy.STRUCTURES) + 1)
    drawn = np.flatnonzero(label.any(axis=(0, 1)))
    skipped = int(drawn[-1] - drawn[0] + 1 - len(drawn)) if len(drawn) else 0
    row |= {"structures": " ".join(annotated), "labelled_slices": len(drawn), "skipped_slices": skipped}
    return row | {f"{s}_ml": counts[anatomy.LABEL_ID[s]] * x * y * z / 1000 for s in annotated}


def _orientation(placement: Placement) -> str:
    """Where the axes point, nearest: LPS is left, posterior, superior."""
    cosines = np.array(placement.affine)[:3, :3] / placement.native_spacing
    nearest = max(itertools.permutations(range(3)), key=lambda worlds: np.abs(cosines[worlds, (0, 1, 2)]).sum())
    return "".join(("LR", "PA", "IS")[world][int(cosines[world, axis] > 0)] for axis, world in enumerate(nearest))


def _stacks(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=[*STACK_COLUMNS, "digest"])
    phases = {phase: i for i, phase in enumerate(anatomy.PHASES)}
    order = frame.assign(phase=frame["phase"].map(phases), plane=frame["plane"].map(anatomy.PLANES.index, "ignore"))
    return frame.loc[order.sort_values(["subject", "plane", "phase"], kind="stable").index].reset_index(drop=True)
