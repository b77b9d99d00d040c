"""The stream of subjects, with a few images and a row of the table, for pretraining and probes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from morphojax.anatomy import CINE, LONG_AXIS, PHASES
from morphojax.data.input.frames import check_frames, find_stacks_of_planes
from morphojax.data.input.reading import count_usable, evenly_spaced, position, read, sorted_subjects
from morphojax.data.input.stream import Batch, Stream, StreamError, StreamSpec, generator
from morphojax.data.store.dataset import Dataset

CHANNELS = ("slices", "cycle")


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """Which images of a subject an example holds (`config.input`).

    Raises StreamError for a choice that does not exist.

    planes:   in the order of the images.
    channels: `slices`: slices of one frame, with one channel. In training the frame is drawn among
              `frames` (a plane that lacks it shows its first), and slices are drawn without
              replacement. In evaluation the frame is the first of `frames` that the subject has,
              and slices are evenly spaced. A shorter stack gives each slice once; the rest is
              masked.
              `cycle`: the middle slice of each plane with its frames as channels; nothing is drawn.
              The frames are ED, mid and ES (ED replaces a missing mid frame), or `cycle_frames`
              frames evenly spaced over the subject's cine, the first included; a shorter cine
              repeats frames.
    frames:   for `slices`. "cine" stands for all frames that `prepare --frames` kept; a plane with
              fewer frames than another shows the frame at the same fraction of the cycle.
    slices:   of the short axis, for `slices`; a long axis has one.
    plane_dropout: probability with which training leaves out each plane of a subject; one plane is
        always kept.
    """

    planes: tuple[str, ...]
    channels: str = "slices"
    frames: tuple[str, ...] = ("ED", "ES")
    cycle_frames: int = 0
    slices: int = 6
    plane_dropout: float = 0.0

    def __post_init__(self) -> None:
        n = self.cycle_frames
        if self.channels not in CHANNELS:
            raise StreamError(f"channels={self.channels!r} is not one of {', '.join(CHANNELS)}")
        if self.slices < 1:
            raise StreamError(f"slices={self.slices}: at least one slice is needed")
        if not 0 <= self.plane_dropout < 1:
            raise StreamError(f"plane_dropout={self.plane_dropout}: give a probability from 0 to below 1")
        if n < 0 or n == 1:
            raise StreamError(f"cycle_frames={n}: give 0 for ED, mid and ES, or at least 2 frames of the cine")
        if n and not self.cycle:
            raise StreamError(f"cycle_frames={n} needs channels=cycle, not {self.channels!r}; set cycle_frames=0")
        if not self.cycle:
            check_frames(self.frames, (*PHASES, CINE))

    @property
    def cycle(self) -> bool:
        return self.channels == "cycle"

    @property
    def image_planes(self) -> tuple[str, ...]:
        """The plane of each of the K images of a subject."""
        return tuple(p for p in self.planes for _ in range(1 if self.cycle or p in LONG_AXIS else self.slices))

    @property
    def channel_count(self) -> int:
        """C of the images."""
        return (self.cycle_frames or len(PHASES)) if self.cycle else 1

    @property
    def stored_frames(self) -> tuple[str, ...]:
        """The frames read from the dataset."""
        if not self.cycle:
            return tuple(self.frames)
        return (CINE,) if self.cycle_frames else PHASES


def subject_stream(
    dataset: Dataset,
    *,
    subjects: Sequence[int] | np.ndarray,
    values: np.ndarray,
    missing: np.ndarray,
    images: ImageSpec,
    spec: StreamSpec,
    records: bool = False,
) -> Stream:
    """A stream whose example is a subject. A batch holds

    - `image` uint8 [B,K,H,W,C],
    - `slice_mask` bool [B,K],
    - `position` float32 [B,K], 0..1 along the stack,
    - `values` float32 [B,F] and `missing` bool [B,F],
    - `subject` int32 [B],
    - `valid` bool [B].

    The K images are those of `images.image_planes`, plane after plane, masked where a subject lacks
    the plane.

    Args:
        subjects: indices. The log counts those without the frames in any plane, which are left out.
        values, missing: [N,F] for the N subjects of the dataset
            (`TableEncoder.encode(dataset.table)`).
        records: a batch also holds `record` int [B,K,C], the numbers of its images in
            `dataset.slices(*images.planes)`, -1 where masked.

    Raises:
        StreamError: shapes that do not fit, or no subject with the frames.
    """
    n = len(dataset.subjects)
    if values.ndim != 2 or values.shape != missing.shape or len(values) != n:
        raise StreamError(f"values {values.shape} and missing {missing.shape} must both be [{n} subjects, columns]")
    chosen, planes = sorted_subjects(dataset, subjects), images.planes
    first, count = find_stacks_of_planes(dataset, planes, chosen, images.stored_frames, images.cycle_frames)
    if images.cycle and not images.cycle_frames:
        _replace_missing_mid(first, count, planes)
    usable = np.asarray((count > 0).any(axis=(1, 2)))
    n_usable = count_usable(usable, ", ".join(planes), images.stored_frames)
    reader = _ReadSubjects(
        records=dataset.slices(*planes),
        subject=chosen[usable],
        first=first[usable],
        count=count[usable],
        values=values.astype(np.float32),
        missing=missing.astype(bool),
        slices=tuple(images.image_planes.count(plane) for plane in planes),
        cycle=images.cycle,
        dropout=images.plane_dropout if spec.train else 0.0,
        draws=spec.train and not images.cycle,
        seed=spec.seed,
        with_records=records,
    )
    return Stream(reader, n_usable, spec)


def _replace_missing_mid(first: np.ndarray, count: np.ndarray, planes: Sequence[str]) -> None:
    """Puts ED in place of a missing mid frame, and removes a plane that lacks ED or ES.

    first, count: changed in place; the last axis is ED, mid, ES.
    """
    no_mid = (count[..., 1] == 0) & (count[..., 0] > 0)
    first[no_mid, 1], count[no_mid, 1] = first[no_mid, 0], count[no_mid, 0]
    count[~(count > 0).all(-1)] = 0
    if n := int(np.count_nonzero((no_mid & (count > 0).all(-1)).any(1))):
        logging.info("%s: %d subjects have no mid frame; ED replaces it", ", ".join(planes), n)


@dataclasses.dataclass(frozen=True)
class _ReadSubjects:
    """Reads a batch of subjects.

    first, count: int [n, planes, frames]: first record and number of slices of a stack (0: no
        stack).
    slices:  images of each plane.
    draws:   whether frame and slices are drawn at random.
    with_records: whether a batch holds the numbers of its images.
    """

    records: Any
    subject: np.ndarray
    first: np.ndarray
    count: np.ndarray
    values: np.ndarray
    missing: np.ndarray
    slices: tuple[int, ...]
    cycle: bool
    dropout: float
    draws: bool
    seed: int
    with_records: bool

    def __call__(self, step: int, rows: np.ndarray, numbers: np.ndarray) -> Batch:
        ends = np.cumsum(self.slices)
        record = np.full((len(numbers), ends[-1], self.count.shape[2] if self.cycle else 1), -1)
        positions = np.zeros((len(numbers), ends[-1]), np.float32)
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
                    positions[i, to] = position(z, count[plane, 0])
                    continue
                frame = wanted if count[plane, wanted] else np.flatnonzero(count[plane])[0]
                z = _choose(count[plane, frame], self.slices[plane], random)
                to = slice(to.start, to.start + len(z))
                record[i, to, 0] = self.first[number, plane, frame] + z
                positions[i, to] = position(z, count[plane, frame])
        image = np.moveaxis(read(self.records, record, ("image",))["image"], 2, -1)
        subject = self.subject[numbers]
        return {
            "image": np.ascontiguousarray(image),
            "slice_mask": record[..., 0] >= 0,
            "position": positions,
            "values": self.values[subject],
            "missing": self.missing[subject],
            "subject": subject.astype(np.int32),
        } | ({"record": record} if self.with_records else {})

    def _planes(self, step: int, row: int, present: np.ndarray) -> np.ndarray:
        """The planes of a subject that an example shows, after plane dropout."""
        present = np.flatnonzero(present)
        if not self.dropout or len(present) == 1:
            return present
        random = generator("planes", self.seed, step, row)
        kept = present[random.random(len(present)) >= self.dropout]
        return kept if len(kept) else random.choice(present, 1)


def _choose(count: int, k: int, random: np.random.Generator | None) -> np.ndarray:
    """At most k of `count` slices, sorted: drawn, or evenly spaced where `random` is None."""
    if random is None:
        return evenly_spaced(count, k)
    return np.sort(random.choice(count, min(k, count), replace=False))
