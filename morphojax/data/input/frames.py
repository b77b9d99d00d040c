"""Which stacks of a prepared dataset are at the frames that a stream asks for: phases by name, and `cine`, whatever else is kept."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from morphojax.anatomy import CINE, is_cine_phase
from morphojax.data.input.stream import StreamError
from morphojax.data.store.dataset import Dataset


def check(frames: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
    """The frames. Raises StreamError where they are not a list of some of the choices."""
    if isinstance(frames, str) or not frames or set(frames) - set(choices):
        raise StreamError(f"frames={frames!r} must be a list of some of {', '.join(choices)}")
    return tuple(frames)


def at(table: pd.DataFrame, frames: Sequence[str]) -> pd.Series:
    """Which rows of a table of stacks are at one of `frames`."""
    cine = [p for p in table["phase"].unique() if is_cine_phase(p)] if CINE in frames else []
    return table["phase"].isin([*frames, *cine])


def stacks(dataset: Dataset, plane: str, subjects: np.ndarray, frames: Sequence[str]) -> np.ndarray:
    """First record, number of slices and row in the table of stacks, int [3, subjects, frames]; 0, 0, 0 where there is none.

    subjects: sorted indices. frames: without `cine`.
    """
    table = dataset.stacks(plane)
    table = table[table["subject"].isin(subjects) & at(table, frames)]
    found = np.zeros((3, len(subjects), len(frames)), np.int64)
    subject = np.searchsorted(subjects, table["subject"].to_numpy())
    frame = np.array([list(frames).index(p) for p in table["phase"]], int)
    found[:, subject, frame] = table["first"], table["slices"], table.index
    return found


def of_planes(
    dataset: Dataset, planes: Sequence[str], subjects: np.ndarray, frames: Sequence[str], cine: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """First record, counted through the planes one after another, and number of slices, int [subjects, planes, frames] each.

    `cine` among the frames stands for so many of them, evenly spaced over the cycle, the first included; with 0 for as many as the
    subject has in the plane where it has most. A plane with fewer shows some more than once, so that a place on the last axis is the
    same share of the cycle in every plane. No slices where a subject has nothing there.
    """
    tables = [dataset.stacks(plane) for plane in planes]
    cines = [t[t["subject"].isin(subjects) & at(t, (CINE,))].sort_values(["subject", "phase"]) for t in tables]
    own = [np.bincount(np.searchsorted(subjects, t["subject"]), minlength=len(subjects)) for t in cines]
    wanted = np.full(len(subjects), cine) if cine else np.max(own, axis=0)
    each, start = [], 0
    for plane, table, count in zip(planes, cines, own, strict=True):
        parts = [
            _evenly_spaced(table, count, wanted) if frame == CINE else stacks(dataset, plane, subjects, (frame,))[:2]
            for frame in frames
        ]
        found = np.concatenate(parts, axis=2)
        found[0] += start
        each.append(found)
        start += len(dataset.slices(plane))
    first, count = np.stack(each, axis=2)
    return first, count


def _evenly_spaced(table: pd.DataFrame, count: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """First record and number of slices, [2, subjects, places]: `wanted` [subjects] of the `count` [subjects] stacks that follow one
    another in the table."""
    places = np.arange(wanted.max())
    subject, place = np.nonzero((places < wanted[:, None]) & (count > 0)[:, None])
    row = (np.cumsum(count) - count)[subject] + place * count[subject] // wanted[subject]
    found = np.zeros((2, len(count), len(places)), np.int64)
    found[:, subject, place] = table[["first", "slices"]].to_numpy()[row].T
    return found
