"""The stream of whole stacks with the volumes of the table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from morphojax.anatomy import LONG_AXIS, PHASES
from morphojax.data.input.frames import check_frames, find_stacks
from morphojax.data.input.reading import count_usable, position, read, sorted_subjects
from morphojax.data.input.stream import Batch, Stream, StreamError, StreamSpec, generator
from morphojax.data.store.dataset import Dataset, decode_native
from morphojax.data.store.records import Records


def stack_stream(
    dataset: Dataset,
    *,
    plane: str,
    subjects: Sequence[int] | np.ndarray,
    volumes: np.ndarray | None,
    spec: StreamSpec,
    slices: int = 0,
    frames: Sequence[str] = ("ED", "ES"),
) -> Stream:
    """A stream whose example is a subject's stack at one phase, labelled or not. A batch holds

    - `image` uint8 [B,K,H,W,1],
    - `slice_mask` bool [B,K],
    - `position` float32 [B,K], 0..1 along the stack,
    - `volume` float32 [B,S], NaN where unknown, where it is larger than the whole image, and of a
      short-axis stack of one slice; S = 0 without `volumes`,
    - `voxel_size` float32 [B], the volume of a voxel in ml: a pixel of the grid times the distance
      between slices; in a long-axis plane the area of a pixel in cm2,
    - `subject` int32 [B],
    - `valid` bool [B].

    In training the phase is drawn among `frames`; in evaluation it is the first of `frames` that
    the subject has. The grid crops the image; the table's volume also includes the parts of the
    heart outside the grid.

    Args:
        subjects: indices. The log counts those without the phases, which are left out.
        volumes: [N, phases, S] for the N subjects of the dataset, in ml (`cells.volumes`), or in a
            long-axis plane areas in cm2 (`cells.areas`); None: none are needed.
        slices: K; 0: the number of slices of the largest stack.
        frames: the phases to take, of ED, mid and ES.

    Raises:
        StreamError: shapes that do not fit, no subject with the phases, or a stack with more slices
            than K.
    """
    chosen, frames, n = sorted_subjects(dataset, subjects), check_frames(frames, PHASES), len(dataset.subjects)
    if volumes is None:
        volumes = np.zeros((n, len(frames), 0))
    if volumes.ndim != 3 or volumes.shape[:2] != (n, len(frames)):
        raise StreamError(f"volumes {volumes.shape} must be [{n} subjects, {len(frames)} frames, structures]")
    first, count, row = find_stacks(dataset, plane, chosen, frames)
    usable = (count > 0).any(axis=1)
    n_usable, largest = count_usable(usable, plane, frames), int(count.max())
    if slices and slices < largest:
        raise StreamError(
            f"slices={slices}: the largest {plane} stack has {largest}; set slices={largest}, or 0 for that"
        )
    if volumes.shape[2]:
        known = np.isfinite(volumes[chosen[usable]]).any(axis=(1, 2))
        logging.info("%s: the table has a volume of %d of %d subjects", plane, int(known.sum()), n_usable)
        single = int((count[usable] == 1).any(axis=1).sum())
        if single and plane not in LONG_AXIS:
            logging.warning("%s: %d subjects have a stack of one slice, whose volume counts as unknown", plane, single)
    reader = _ReadStacks(
        records=dataset.slices(plane),
        native=Records(dataset.root, dataset.manifest.native[plane]),
        subject=chosen[usable],
        first=first[usable],
        count=count[usable],
        row=row[usable],
        volumes=volumes[chosen[usable]].astype(np.float32),
        slices=slices or largest,
        long_axis=plane in LONG_AXIS,
        seed=spec.seed if spec.train else None,
    )
    return Stream(reader, n_usable, spec)


@dataclasses.dataclass(frozen=True)
class _ReadStacks:
    """Reads a batch of whole stacks.

    first, count, row: int [n, frames]: first record, number of slices (0: no stack) and native
        record.
    seed: None in evaluation: nothing is drawn.
    """

    records: Any
    native: Any
    subject: np.ndarray
    first: np.ndarray
    count: np.ndarray
    row: np.ndarray
    volumes: np.ndarray
    slices: int
    long_axis: bool
    seed: int | None

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        stack = (numbers, np.array([self._frame(step, int(r), n) for r, n in zip(rows, numbers, strict=True)], int))
        z, count = np.arange(self.slices), self.count[stack][:, None]
        mask = z < count
        record = np.where(mask, self.first[stack][:, None] + z, -1)
        image = read(self.records, record, ("image",))["image"][..., None]
        voxel_size = np.array([self._voxel_size(self.native[row]) for row in self.row[stack]], np.float32)
        whole = self.long_axis | (count > 1)
        largest = np.where(whole, count, 0) * voxel_size[:, None] * np.prod(image.shape[2:4])
        return {
            "image": image,
            "slice_mask": mask,
            "position": np.where(mask, position(z, count), 0).astype(np.float32),
            "volume": np.where(self.volumes[stack] < largest, self.volumes[stack], np.nan).astype(np.float32),
            "voxel_size": voxel_size,
            "subject": self.subject[numbers].astype(np.int32),
        }

    def _frame(self, step: int, row: int, number: int) -> int:
        present = np.flatnonzero(self.count[number])
        return int(present[0] if self.seed is None else generator("frame", self.seed, step, row).choice(present))

    def _voxel_size(self, native: Any) -> float:
        """On the grid, which resamples pixels and keeps the distance of slices."""
        _, placement = decode_native(native)
        area_mm2 = placement.grid.spacing_mm**2
        return area_mm2 / 100 if self.long_axis else area_mm2 * placement.native_spacing[2] / 1000
