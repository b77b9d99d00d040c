"""What an example is, in pretraining, segmentation, or of whole stacks: which records of a prepared dataset a batch reads."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from morphojax.anatomy import CINE, LONG_AXIS, PHASES, PLANE_STRUCTURES, PLANES, STRUCTURES
from morphojax.data.input import frames as chosen
from morphojax.data.input.stream import Batch, Stream, StreamError, generator
from morphojax.data.store.dataset import Dataset, decode_native
from morphojax.data.store.records import Records

CHANNELS = ("slices", "cycle")


def image_planes(planes: Sequence[str], channels: str, slices: int) -> tuple[str, ...]:
    """The plane of each of the K images of a subject: `slices` of the short axis, one of a long axis, one of each as a cycle.

    Raises StreamError.
    """
    if channels not in CHANNELS:
        raise StreamError(f"channels={channels!r} is not one of {', '.join(CHANNELS)}")
    if slices < 1:
        raise StreamError(f"slices={slices}: at least one slice is needed")
    return tuple(p for p in planes for _ in range(1 if channels == "cycle" or p in LONG_AXIS else slices))


def count_channels(channels: str, cycle_frames: int = 0) -> int:
    """C of the images of `pretraining`. Raises StreamError."""
    if cycle_frames < 0 or cycle_frames == 1:
        raise StreamError(f"cycle_frames={cycle_frames}: give 0 for ED, mid and ES, or at least 2 frames of the cine")
    if cycle_frames and channels != "cycle":
        raise StreamError(f"cycle_frames={cycle_frames} needs channels=cycle, not {channels!r}; set cycle_frames=0")
    return (cycle_frames or len(PHASES)) if channels == "cycle" else 1


def pretraining(
    dataset: Dataset,
    *,
    planes: Sequence[str],
    values: np.ndarray,
    missing: np.ndarray,
    batch_size: int,
    seed: int,
    train: bool,
    splits: Sequence[str] = ("train",),
    subjects: Sequence[int] | np.ndarray | None = None,
    channels: str = "slices",
    frames: Sequence[str] = ("ED", "ES"),
    cycle_frames: int = 0,
    slices: int = 6,
    plane_dropout: float = 0.0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Stream:
    """A stream whose example is a subject: `image` uint8 [B,K,H,W,C], `slice_mask` bool [B,K], `position` float32 [B,K]
    (0..1 along the stack), `values` float32 [B,F], `missing` bool [B,F], `subject` int32 [B], `valid` bool [B].

    The K images are those of `image_planes`: plane after plane, masked where a subject lacks the plane.
    channels="slices": slices of one frame, C = 1. In training the frame is drawn among `frames` (a plane that lacks it gives its
    first) and the slices without replacement; in evaluation they are the first of `frames` that the subject has, and evenly spaced.
    A stack of fewer slices gives each once; the rest is masked. channels="cycle": one image a plane and C = 3, the middle slice at
    ED, mid and ES, nothing random; where a subject has no mid frame, ED stands in for it. With `cycle_frames` C = N, the middle slice
    at N frames evenly spaced among those that the subject has of its cine, the first included; of fewer some come more than once.

    "cine" among `frames`: all frames of the cine that the subject has, as `prepare --frames` kept them; where a plane has fewer than
    another, it shows the frame at the same share of its own.

    `plane_dropout`: in training each plane of a subject is left out with this probability; one is always kept.
    `values` and `missing` are [N, F] for the N subjects of the dataset (`TableEncoder.encode(dataset.table)`).
    `subjects` (indices) overrides `splits`. Subjects without the frames asked for in any plane are left out, and counted in the log.
    `batch_size` is that of all processes together. Raises StreamError.
    """
    planes_of_images = image_planes(planes, channels, slices)
    n = len(dataset.subjects)
    if values.ndim != 2 or values.shape != missing.shape or len(values) != n:
        raise StreamError(f"values {values.shape} and missing {missing.shape} must both be [{n} subjects, columns]")
    if not 0 <= plane_dropout < 1:
        raise StreamError(f"plane_dropout={plane_dropout}: give a probability from 0 to below 1")
    count_channels(channels, cycle_frames)
    wanted, cycle = _subjects(dataset, splits, subjects), channels == "cycle"
    wanted_frames = chosen.check(frames, (*PHASES, CINE)) if not cycle else (CINE,) if cycle_frames else PHASES
    first, count = chosen.of_planes(dataset, planes, wanted, wanted_frames, cycle_frames)
    if cycle and not cycle_frames:
        no_mid = (count[..., 1] == 0) & (count[..., 0] > 0)
        first[no_mid, 1], count[no_mid, 1] = first[no_mid, 0], count[no_mid, 0]
        count[~(count > 0).all(-1)] = 0
        if n := int(np.count_nonzero((no_mid & (count > 0).all(-1)).any(1))):
            logging.info("%s: %d subjects have no mid frame; ED stands in for it", ", ".join(planes), n)
    usable = np.asarray((count > 0).any(axis=(1, 2)))
    n_usable = _count_usable(usable, ", ".join(planes), wanted_frames)
    read = _ReadSubjects(
        records=dataset.slices(*planes),
        subject=wanted[usable],
        first=first[usable],
        count=count[usable],
        values=values.astype(np.float32),
        missing=missing.astype(bool),
        slices=tuple(planes_of_images.count(plane) for plane in planes),
        cycle=cycle,
        dropout=plane_dropout if train else 0.0,
        draws=train and not cycle,
        seed=seed,
    )
    return Stream(read, n_usable, batch_size, seed, train, process_index, process_count, workers, prefetch)


def segmentation(
    dataset: Dataset,
    *,
    planes: Sequence[str],
    structures: Sequence[str],
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
    ids), `annotated` bool [B,S] (of which of `structures` the label tells where they are; one of the plane's that the annotators
    did not draw may be anywhere in the background), `position` float32 [B] (0..1 along the stack), `plane` int32 [B] (into
    anatomy.PLANES), `subject` int32 [B], `valid` bool [B].

    Slices of several `planes` are mixed. "cine" among `frames`: the labelled frames of the cine. `subjects` are indices. Those without
    a stack at `frames` in which one of `structures` was annotated are left out, and counted in the log. `batch_size` is that of all
    processes together. Raises StreamError.
    """
    wanted, frames = _subjects(dataset, (), subjects), chosen.check(frames, (*PHASES, CINE))
    columns = [STRUCTURES.index(s) for s in structures]
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("record", "position", "subject", "annotated", "plane")}
    start = 0
    for plane in planes:
        annotated, table = dataset.annotated(plane)[:, columns], dataset.stacks(plane)
        foreign = [s not in PLANE_STRUCTURES[plane] for s in structures]  # never drawn in this plane: background there
        used = table["subject"].isin(wanted) & chosen.at(table, frames) & np.asarray(annotated.any(1))
        table, annotated = table[used], annotated[used] | foreign
        if absent := len(wanted) - table["subject"].nunique():
            logging.info("%s: %d of %d subjects have no labelled stack and are left out", plane, absent, len(wanted))
        count = table["slices"].to_numpy(int)
        z = np.concatenate([np.arange(c) for c in (0, *count)])
        found["record"].append(start + np.repeat(table["first"].to_numpy(int), count) + z)
        found["position"].append(_position(z, np.repeat(count, count)))
        found["subject"].append(np.repeat(table["subject"].to_numpy(np.int32), count))
        found["annotated"].append(np.repeat(annotated, count, axis=0))
        found["plane"].append(np.full(len(z), PLANES.index(plane), np.int32))
        start += len(dataset.slices(plane))
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    n = len(arrays["record"])
    if not n:
        raise StreamError(
            f"no subject of the {len(wanted)} asked for has a labelled {' or '.join(planes)} stack at {', '.join(frames)}"
        )
    read = _ReadSlices(dataset.slices(*planes), **arrays)
    return Stream(read, n, batch_size, seed, train, process_index, process_count, workers, prefetch)


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
    wanted, frames, n = _subjects(dataset, (), subjects), chosen.check(frames, PHASES), len(dataset.subjects)
    if volumes.ndim != 3 or volumes.shape[:2] != (n, len(frames)):
        raise StreamError(f"volumes {volumes.shape} must be [{n} subjects, {len(frames)} frames, structures]")
    first, count, row = chosen.stacks(dataset, plane, wanted, frames)
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
    """Reads a batch of subjects. Stacks are [n, planes, frames]: number of the first record, count of slices (0 = no stack)."""

    records: Any
    subject: np.ndarray
    first: np.ndarray
    count: np.ndarray
    values: np.ndarray
    missing: np.ndarray
    slices: tuple[int, ...]  # of each plane
    cycle: bool
    dropout: float
    draws: bool  # frame and slices
    seed: int

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        ends = np.cumsum(self.slices)
        record = np.full((len(numbers), ends[-1], self.count.shape[2] if self.cycle else 1), -1)
        position = np.zeros((len(numbers), ends[-1]), np.float32)
        for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            random = generator("slices", self.seed, step, int(row)) if self.draws else None
            count = self.count[number]
            present = np.flatnonzero(count.any(axis=0))
            wanted = present[0] if random is None else random.choice(present)
            for plane in self._planes(step, int(row), count.any(axis=1)):
                to = slice(ends[plane] - self.slices[plane], ends[plane])
                if self.cycle:
                    z = count[plane, 0] // 2
                    record[i, to] = self.first[number, plane] + count[plane] // 2
                    position[i, to] = _position(z, count[plane, 0])
                    continue
                frame = wanted if count[plane, wanted] else np.flatnonzero(count[plane])[0]
                z = _choose(count[plane, frame], self.slices[plane], random)
                to = slice(to.start, to.start + len(z))
                record[i, to, 0] = self.first[number, plane, frame] + z
                position[i, to] = _position(z, count[plane, frame])
        image = np.moveaxis(_read(self.records, record, ("image",))["image"], 2, -1)
        subject = self.subject[numbers]
        return {
            "image": np.ascontiguousarray(image),
            "slice_mask": record[..., 0] >= 0,
            "position": position,
            "values": self.values[subject],
            "missing": self.missing[subject],
            "subject": subject.astype(np.int32),
        }

    def _planes(self, step: int, row: int, present: np.ndarray) -> np.ndarray:
        """The planes of a subject that are shown."""
        present = np.flatnonzero(present)
        if not self.dropout or len(present) == 1:
            return present
        random = generator("planes", self.seed, step, row)
        kept = present[random.random(len(present)) >= self.dropout]
        return kept if len(kept) else random.choice(present, 1)


def _choose(count: int, k: int, random: np.random.Generator | None) -> np.ndarray:
    """At most k of `count` slices, sorted: drawn, or evenly spaced."""
    if random is None:
        return _evenly_spaced(count, k)
    return np.sort(random.choice(count, min(k, count), replace=False))


@dataclasses.dataclass(frozen=True)
class _ReadSlices:
    """Reads a batch of labelled slices; arrays are by number of the example."""

    records: Any
    record: np.ndarray
    position: np.ndarray
    subject: np.ndarray
    annotated: np.ndarray
    plane: np.ndarray

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        del step, rows
        batch = _read(self.records, self.record[numbers], ("image", "label"))
        named = {name: getattr(self, name)[numbers] for name in ("position", "subject", "annotated", "plane")}
        return {"image": batch["image"][..., None], "label": batch["label"], **named}


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
        kept = "; prepare the dataset with --frames=all, or a number" if CINE in frames else ""
        raise StreamError(f"no subject of the {n_wanted} asked for has {plane} stacks at {', '.join(frames)}{kept}")
    return n_usable


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
