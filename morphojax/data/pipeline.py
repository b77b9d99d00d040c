"""What an example is, in pretraining, segmentation, or of whole stacks: which records of a prepared dataset a batch reads."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from morphojax.anatomy import PHASES
from morphojax.data.dataset import Dataset, decode_native
from morphojax.data.records import Records
from morphojax.data.stream import Batch, Stream, StreamError, generator

CHANNELS = ("slices", "cycle")


def pretraining(
    dataset: Dataset,
    *,
    plane: str,
    values: np.ndarray,
    missing: np.ndarray,
    batch_size: int,
    seed: int,
    train: bool,
    splits: Sequence[str] = ("train",),
    subjects: Sequence[int] | np.ndarray | None = None,
    channels: str = "slices",
    frames: Sequence[str] = ("ED", "ES"),
    slices: int = 6,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Stream:
    """A stream whose example is a subject: `image` uint8 [B,K,H,W,C], `slice_mask` bool [B,K], `position` float32 [B,K]
    (0..1 along the stack), `values` float32 [B,F], `missing` bool [B,F], `subject` int32 [B], `valid` bool [B].

    channels="slices": K = `slices` slices of one frame, C = 1. In training the frame is drawn among `frames` and the
    slices without replacement; in evaluation they are the first of `frames` that the subject has, and evenly spaced. A
    stack of fewer slices gives each once; the rest is masked. channels="cycle": K = 1 and C = 3, the middle slice at
    ED, mid and ES, nothing random; where a subject has no mid frame, ED stands in for it.

    `values` and `missing` are [N, F] for the N subjects of the dataset (`TableEncoder.encode(dataset.table)`).
    `subjects` (indices) overrides `splits`. Subjects without the frames asked for are left out, and counted in the log.
    `batch_size` is that of all processes together. Raises StreamError.
    """
    if channels not in CHANNELS:
        raise StreamError(f"channels={channels!r} is not one of {', '.join(CHANNELS)}")
    if slices < 1:
        raise StreamError(f"slices={slices}: at least one slice is needed")
    n = len(dataset.subjects)
    if values.ndim != 2 or values.shape != missing.shape or len(values) != n:
        raise StreamError(f"values {values.shape} and missing {missing.shape} must both be [{n} subjects, columns]")
    wanted = _subjects(dataset, splits, subjects)
    wanted_frames = PHASES if channels == "cycle" else _phases(frames)
    first, count, _ = _stacks(dataset, plane, wanted, wanted_frames)
    if channels == "cycle":
        no_mid = (count[:, 1] == 0) & (count[:, 0] > 0)
        first[no_mid, 1], count[no_mid, 1] = first[no_mid, 0], count[no_mid, 0]
        usable = (count > 0).all(axis=1)
        if n := int(np.count_nonzero(no_mid & usable)):
            logging.info("%s: %d subjects have no mid frame; ED stands in for it", plane, n)
    else:
        usable = (count > 0).any(axis=1)
    n_usable = _count_usable(usable, plane, wanted_frames)
    read = _ReadSubjects(
        records=dataset.slices(plane),
        subject=wanted[usable],
        first=first[usable],
        count=count[usable],
        values=values.astype(np.float32),
        missing=missing.astype(bool),
        slices=1 if channels == "cycle" else slices,
        cycle=channels == "cycle",
        seed=seed if train and channels == "slices" else None,
    )
    return Stream(read, n_usable, batch_size, seed, train, process_index, process_count, workers, prefetch)


def segmentation(
    dataset: Dataset,
    *,
    plane: str,
    subjects: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    train: bool,
    frames: Sequence[str] = ("ED", "ES"),
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Stream:
    """A stream whose example is a slice of a labelled stack: `image` uint8 [B,H,W,1], `label` uint8 [B,H,W] (canonical
    ids), `position` float32 [B] (0..1 along the stack), `subject` int32 [B], `valid` bool [B].

    `subjects` are indices. Those without a labelled stack at `frames` are left out, and counted in the log.
    `batch_size` is that of all processes together. Raises StreamError.
    """
    wanted, frames = _subjects(dataset, (), subjects), _phases(frames)
    table = dataset.stacks(plane)
    table = table[table["labelled"] & table["subject"].isin(wanted) & table["phase"].isin(list(frames))]
    absent = len(wanted) - table["subject"].nunique()
    if absent:
        logging.info("%s: %d of %d subjects have no labelled stack and are left out", plane, absent, len(wanted))
    if table.empty:
        raise StreamError(
            f"no subject of the {len(wanted)} asked for has a labelled {plane} stack at {', '.join(frames)}"
        )
    count = table["slices"].to_numpy()
    z = np.concatenate([np.arange(c) for c in count])
    read = _ReadSlices(
        records=dataset.slices(plane),
        record=np.repeat(table["first"].to_numpy(), count) + z,
        position=_position(z, np.repeat(count, count)),
        subject=np.repeat(table["subject"].to_numpy(), count),
    )
    return Stream(read, len(z), batch_size, seed, train, process_index, process_count, workers, prefetch)


def stacks(
    dataset: Dataset,
    *,
    plane: str,
    subjects: Sequence[int] | np.ndarray,
    volumes: np.ndarray,
    batch_size: int,
    seed: int,
    train: bool,
    slices: int = 0,
    frames: Sequence[str] = ("ED", "ES"),
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Stream:
    """A stream whose example is a subject's whole stack at one frame, labelled or not, with the volumes that a table tells of it:
    `image` uint8 [B,K,H,W,1], `slice_mask` bool [B,K], `position` float32 [B,K] (0..1 along the stack), `volume` float32 [B,S] in
    ml (NaN where unknown), `voxel_ml` float32 [B], `subject` int32 [B], `valid` bool [B].

    K = `slices`; 0 takes the largest of these stacks. In training the frame is drawn among `frames`; in evaluation it is the first
    of `frames` that the subject has. `volumes` is [N, frames, S] for the N subjects of the dataset, in ml
    (`table.volumes(dataset.table, dataset.schema, structures, frames)`). `voxel_ml` is the volume of a voxel of the batch: a pixel
    of the grid times the distance of the slices. The grid crops the image: what of the heart lies outside is in the table's
    volume and in no voxel.

    `subjects` are indices. Those without the frames are left out, and counted in the log. `batch_size` is that of all processes
    together. Raises StreamError, also where a stack has more slices than K.
    """
    wanted, frames, n = _subjects(dataset, (), subjects), _phases(frames), len(dataset.subjects)
    if volumes.ndim != 3 or volumes.shape[:2] != (n, len(frames)):
        raise StreamError(f"volumes {volumes.shape} must be [{n} subjects, {len(frames)} frames, structures]")
    first, count, row = _stacks(dataset, plane, wanted, frames)
    usable = (count > 0).any(axis=1)
    n_usable, largest = _count_usable(usable, plane, frames), int(count.max())
    if slices and slices < largest:
        raise StreamError(
            f"slices={slices}: the largest {plane} stack has {largest}; set slices={largest}, or 0 for that"
        )
    known = np.isfinite(volumes[wanted[usable]]).any(axis=(1, 2))
    logging.info("%s: the table tells a volume of %d of %d subjects", plane, int(np.count_nonzero(known)), n_usable)
    read = _ReadStacks(
        records=dataset.slices(plane),
        native=Records(dataset.root, dataset.manifest.native[plane]),
        subject=wanted[usable],
        first=first[usable],
        count=count[usable],
        row=row[usable],
        volumes=volumes[wanted[usable]].astype(np.float32),
        slices=slices or largest,
        seed=seed if train else None,
    )
    return Stream(read, n_usable, batch_size, seed, train, process_index, process_count, workers, prefetch)


@dataclasses.dataclass(frozen=True)
class _ReadSubjects:
    """Reads a batch of subjects. Stacks are [n, frames]: number of the first record, count of slices (0 = no stack)."""

    records: Any
    subject: np.ndarray
    first: np.ndarray
    count: np.ndarray
    values: np.ndarray
    missing: np.ndarray
    slices: int
    cycle: bool
    seed: int | None  # None: nothing is drawn

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        first, count = self.first[numbers], self.count[numbers]
        if self.cycle:
            z = (count // 2)[:, None, :]  # [B, K=1, C=3]
            record, mask = first[:, None, :] + z, np.ones((len(numbers), 1), bool)
            position = _position(z, count[:, None, :])[:, :, 0]
        else:
            z = np.full((len(numbers), self.slices), -1)
            frame = np.zeros(len(numbers), int)
            for i, row in enumerate(rows):
                present = np.flatnonzero(count[i])
                if self.seed is None:
                    frame[i] = present[0]
                    chosen = _evenly_spaced(count[i, frame[i]], self.slices)
                else:
                    random = generator("slices", self.seed, step, int(row))
                    frame[i] = random.choice(present)
                    k = min(self.slices, count[i, frame[i]])
                    chosen = np.sort(random.choice(count[i, frame[i]], k, replace=False))
                z[i, : len(chosen)] = chosen
            mask = z >= 0
            stack = (np.arange(len(numbers)), frame)
            record = np.where(mask, first[stack][:, None] + z, -1)[:, :, None]
            position = np.where(mask, _position(z, count[stack][:, None]), 0).astype(np.float32)
        image = np.moveaxis(_read(self.records, record, ("image",))["image"], 2, -1)
        subject = self.subject[numbers]
        return {
            "image": np.ascontiguousarray(image),
            "slice_mask": mask,
            "position": position,
            "values": self.values[subject],
            "missing": self.missing[subject],
            "subject": subject.astype(np.int32),
        }


@dataclasses.dataclass(frozen=True)
class _ReadSlices:
    """Reads a batch of labelled slices."""

    records: Any
    record: np.ndarray
    position: np.ndarray
    subject: np.ndarray

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        del step, rows
        batch = _read(self.records, self.record[numbers], ("image", "label"))
        return {
            "image": batch["image"][..., None],
            "label": batch["label"],
            "position": self.position[numbers],
            "subject": self.subject[numbers].astype(np.int32),
        }


@dataclasses.dataclass(frozen=True)
class _ReadStacks:
    """Reads a batch of whole stacks. Stacks are [n, frames], as in _ReadSubjects; `row` counts the native records."""

    records: Any
    native: Any
    subject: np.ndarray
    first: np.ndarray
    count: np.ndarray
    row: np.ndarray
    volumes: np.ndarray
    slices: int
    seed: int | None  # None: nothing is drawn

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        stack = (numbers, np.array([self._frame(step, int(r), n) for r, n in zip(rows, numbers, strict=True)], int))
        z, count = np.arange(self.slices), self.count[stack][:, None]
        mask = z < count
        record = np.where(mask, self.first[stack][:, None] + z, -1)
        return {
            "image": _read(self.records, record, ("image",))["image"][..., None],
            "slice_mask": mask,
            "position": np.where(mask, _position(z, count), 0).astype(np.float32),
            "volume": self.volumes[stack],
            "voxel_ml": np.array([_voxel_ml(self.native[row]) for row in self.row[stack]], np.float32),
            "subject": self.subject[numbers].astype(np.int32),
        }

    def _frame(self, step: int, row: int, number: int) -> int:
        present = np.flatnonzero(self.count[number])
        return int(present[0] if self.seed is None else generator("frame", self.seed, step, row).choice(present))


def _voxel_ml(native: Any) -> float:
    """The volume of a voxel of a stack on the grid, which resamples in plane and keeps the slices as they are."""
    _, placement = decode_native(native)
    return placement.grid.spacing_mm**2 * placement.native_spacing[2] / 1000


def _read(records: Any, numbers: np.ndarray, keys: Sequence[str]) -> Batch:
    """Record numbers of any shape -> arrays [*numbers.shape, H, W]; zero where the number is -1."""
    where = np.flatnonzero(numbers.ravel() >= 0)
    read = [records[n] for n in numbers.ravel()[where]]
    batch = {}
    for key in keys:
        out = np.zeros((numbers.size, *read[0][key].shape), np.uint8)
        for i, record in zip(where, read, strict=True):
            out[i] = record[key]
        batch[key] = out.reshape(*numbers.shape, *out.shape[1:])
    return batch


def _position(z: np.ndarray, count: np.ndarray) -> np.ndarray:
    """0 for the first slice of a stack, 1 for the last, 0.5 for the only one."""
    return np.where(count > 1, z / np.maximum(count - 1, 1), 0.5).astype(np.float32)


def _evenly_spaced(count: int, k: int) -> np.ndarray:
    """The middles of k equal parts of 0..count-1 (all of them where there are at most k); k = 1 gives count // 2."""
    return (2 * np.arange(k) + 1) * count // (2 * k) if count > k else np.arange(count)


def _count_usable(usable: np.ndarray, plane: str, frames: Sequence[str]) -> int:
    """How many subjects have the frames; the others are counted in the log. Raises StreamError where none has."""
    n_usable, n_wanted = int(np.count_nonzero(usable)), len(usable)
    if n_usable < n_wanted:
        logging.info(
            "%s: %d of %d subjects lack the frames %s and are left out",
            *(plane, n_wanted - n_usable, n_wanted, ", ".join(frames)),
        )
    if not n_usable:
        raise StreamError(f"no subject of the {n_wanted} asked for has {plane} stacks at {', '.join(frames)}")
    return n_usable


def _phases(frames: Sequence[str]) -> tuple[str, ...]:
    if isinstance(frames, str) or not frames or set(frames) - set(PHASES):
        raise StreamError(f"frames={frames!r} must be a list of some of {', '.join(PHASES)}")
    return tuple(frames)


def _subjects(dataset: Dataset, splits: Sequence[str], subjects: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Sorted indices of the subjects asked for."""
    if subjects is None:
        unknown = set(splits) - set(dataset.splits.tolist())
        if unknown:
            raise StreamError(f"no subject of this dataset is in the splits {sorted(unknown)}")
        return np.flatnonzero(np.isin(dataset.splits, list(splits)))
    wanted, n = np.unique(np.asarray(subjects, int)), len(dataset.subjects)
    if len(wanted) != len(subjects) or not wanted.size or wanted[0] < 0 or wanted[-1] >= n:
        raise StreamError(
            f"subjects must be different indices in 0..{n - 1}, at least one; got {len(subjects)} of them"
        )
    return wanted


def _stacks(dataset: Dataset, plane: str, subjects: np.ndarray, frames: Sequence[str]) -> np.ndarray:
    """First record, number of slices and row in the table of stacks, [3, subjects, frames]; 0, 0, 0 where there is none."""
    table = dataset.stacks(plane)
    table = table[table["subject"].isin(subjects) & table["phase"].isin(list(frames))]
    found = np.zeros((3, len(subjects), len(frames)), np.int64)
    subject = np.searchsorted(subjects, table["subject"].to_numpy())
    frame = np.array([list(frames).index(p) for p in table["phase"]], int)
    found[:, subject, frame] = table["first"], table["slices"], table.index
    return found
