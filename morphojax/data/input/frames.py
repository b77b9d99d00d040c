"""Finds the stacks of a prepared dataset at given frames: named phases, and `cine` for the
others.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from morphojax.anatomy import CINE, is_cine_phase
from morphojax.data.input.stream import StreamError
from morphojax.data.store.dataset import Dataset


def check_frames(frames: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
    """The frames as a tuple. Raises StreamError unless they are a list of some of the choices."""
    if isinstance(frames, str) or not frames or set(frames) - set(choices):
        raise StreamError(f"frames={frames!r} must be a list of some of {', '.join(choices)}")
    return tuple(frames)


def is_at_frames(table: pd.DataFrame, frames: Sequence[str]) -> pd.Series:
    """Whether each row of a table of stacks is at one of `frames`."""
    cine = [p for p in table["phase"].unique() if is_cine_phase(p)] if CINE in frames else []
    return table["phase"].isin([*frames, *cine])


def find_stacks(dataset: Dataset, plane: str, subjects: np.ndarray, frames: Sequence[str]) -> np.ndarray:
    """First record, number of slices (0: no stack), row in the table: int [3, subjects, frames].

    subjects: sorted indices. frames: without `cine`.
    """
    table = dataset.stacks(plane)
    table = table[table["subject"].isin(subjects) & is_at_frames(table, frames)]
    by_frame = np.zeros((3, len(subjects), len(frames)), np.int64)
    subject = np.searchsorted(subjects, table["subject"].to_numpy())
    frame = np.array([list(frames).index(p) for p in table["phase"]], int)
    by_frame[:, subject, frame] = table["first"], table["slices"], table.index
    return by_frame


def find_stacks_of_planes(
    dataset: Dataset, planes: Sequence[str], subjects: np.ndarray, frames: Sequence[str], cine: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """First record and number of slices (0: no stack): int [subjects, planes, frames] each.

    Records are numbered through all planes, one plane after another.

    Args:
        frames: `cine` among them stands for several frames, evenly spaced over the cycle, the first
            included. A plane with fewer frames repeats some, so that a position on the last axis is
            the same fraction of the cycle in every plane.
        cine: the number of frames that `cine` stands for; 0: as many as the subject has in the
            plane with most.
    """
    tables = [dataset.stacks(plane) for plane in planes]
    cines = [
        t[t["subject"].isin(subjects) & is_at_frames(t, (CINE,))].sort_values(["subject", "phase"]) for t in tables
    ]
    counts = [np.bincount(np.searchsorted(subjects, t["subject"]), minlength=len(subjects)) for t in cines]
    wanted = np.full(len(subjects), cine) if cine else np.max(counts, axis=0)
    by_plane, start = [], 0
    for plane, table, count in zip(planes, cines, counts, strict=True):
        parts = [
            _evenly_spaced(table, count, wanted)
            if frame == CINE
            else find_stacks(dataset, plane, subjects, (frame,))[:2]
            for frame in frames
        ]
        stacks = np.concatenate(parts, axis=2)
        stacks[0] += start
        by_plane.append(stacks)
        start += len(dataset.slices(plane))
    first, count = np.stack(by_plane, axis=2)
    return first, count


def _evenly_spaced(table: pd.DataFrame, count: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """First record and number of slices: [2, subjects, positions in the cycle].

    Args:
        table: of stacks, sorted by subject.
        count: number of stacks of each subject in it.
        wanted: number of stacks to choose for each subject.
    """
    positions = np.arange(wanted.max())
    subject, position = np.nonzero((positions < wanted[:, None]) & (count > 0)[:, None])
    row = (np.cumsum(count) - count)[subject] + position * count[subject] // wanted[subject]
    chosen = np.zeros((2, len(count), len(positions)), np.int64)
    chosen[:, subject, position] = table[["first", "slices"]].to_numpy()[row].T
    return chosen
