"""The stream of single slices, labelled or not, for segmentation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from morphojax.anatomy import CINE, PHASES, PLANE_STRUCTURES, PLANES, STRUCTURES
from morphojax.data.input.frames import check_frames, is_at_frames
from morphojax.data.input.reading import position, read, sorted_subjects
from morphojax.data.input.stream import Batch, Stream, StreamError, StreamSpec
from morphojax.data.store.dataset import Dataset


def slice_stream(
    dataset: Dataset,
    *,
    planes: Sequence[str],
    structures: Sequence[str],
    subjects: Sequence[int] | np.ndarray,
    spec: StreamSpec,
    frames: Sequence[str] = ("ED", "ES"),
    labelled: bool = True,
) -> Stream:
    """A stream whose example is a slice. Slices of several planes are mixed. A batch holds

    - `image` uint8 [B,H,W,1],
    - `label` uint8 [B,H,W], canonical ids,
    - `annotated` bool [B,S], whether a structure is annotated in the stack; one that is not may be
      in its background,
    - `position` float32 [B], 0..1 along the stack,
    - `plane` int32 [B], an index of anatomy.PLANES,
    - `subject` int32 [B],
    - `valid` bool [B].

    Args:
        structures: the S structures of interest.
        subjects: indices. The log counts those without a usable stack, which are left out.
        frames: phases, and "cine" for the other frames of the cine.
        labelled: True: only stacks in which one of `structures` is annotated. False: every stack,
            without its annotation: `annotated` is all False and `label` all zero.

    Raises:
        StreamError: unknown frames, or no usable stack.
    """
    chosen, frames = sorted_subjects(dataset, subjects), check_frames(frames, (*PHASES, CINE))
    parts, start = [], 0
    for plane in planes:
        parts.append(_slices_of_plane(dataset, plane, structures, chosen, frames, labelled))
        parts[-1]["record"] += start
        start += len(dataset.slices(plane))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    n = len(arrays["record"])
    if not n:
        kind = "a labelled" if labelled else "any"
        raise StreamError(
            f"no subject of the {len(chosen)} asked for has {kind} {' or '.join(planes)} stack at {', '.join(frames)}"
        )
    return Stream(_ReadSlices(dataset.slices(*planes), labelled, **arrays), n, spec)


def _slices_of_plane(
    dataset: Dataset,
    plane: str,
    structures: Sequence[str],
    subjects: np.ndarray,
    frames: tuple[str, ...],
    labelled: bool,
) -> dict[str, np.ndarray]:
    """Arrays with one entry per slice. Records are numbered from 0 within the plane."""
    annotated = dataset.annotated(plane)[:, [STRUCTURES.index(s) for s in structures]]
    table = dataset.stacks(plane)
    used = table["subject"].isin(subjects) & is_at_frames(table, frames)
    if labelled:
        used &= np.asarray(annotated.any(1))
    # A structure that the plane never shows is surely absent: it counts as annotated.
    annotated = (annotated | [s not in PLANE_STRUCTURES[plane] for s in structures]) & labelled
    table, annotated = table[used], annotated[used]
    if absent := len(subjects) - table["subject"].nunique():
        kind = "labelled stack" if labelled else "stack"
        logging.info("%s: %d of %d subjects have no %s and are left out", plane, absent, len(subjects), kind)
    count = table["slices"].to_numpy(int)
    z = np.concatenate([np.arange(c) for c in (0, *count)])
    return {
        "record": np.repeat(table["first"].to_numpy(int), count) + z,
        "position": position(z, np.repeat(count, count)),
        "subject": np.repeat(table["subject"].to_numpy(np.int32), count),
        "annotated": np.repeat(annotated, count, axis=0),
        "plane": np.full(len(z), PLANES.index(plane), np.int32),
    }


@dataclasses.dataclass(frozen=True)
class _ReadSlices:
    """Reads a batch of slices. Arrays have one entry per example."""

    records: Any
    labelled: bool
    record: np.ndarray
    position: np.ndarray
    subject: np.ndarray
    annotated: np.ndarray
    plane: np.ndarray

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        del step, rows
        batch = read(self.records, self.record[numbers], ("image", "label"))
        label = batch["label"] if self.labelled else np.zeros_like(batch["label"])
        by_example = {name: getattr(self, name)[numbers] for name in ("position", "subject", "annotated", "plane")}
        return {"image": batch["image"][..., None], "label": label, **by_example}
