"""Shared by the three streams: reading records, positions along a stack, and checks of subjects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from morphojax.anatomy import CINE
from morphojax.data.input.stream import Batch, StreamError
from morphojax.data.store.dataset import Dataset


def read(records: Any, numbers: np.ndarray, keys: Sequence[str]) -> Batch:
    """The arrays of records, [*numbers.shape, H, W] for each key; zero where the number is -1."""
    used = np.flatnonzero(numbers.ravel() >= 0)
    examples = [records[n] for n in numbers.ravel()[used]]
    batch = {}
    for key in keys:
        array = np.zeros((numbers.size, *examples[0][key].shape), np.uint8)
        for i, example in zip(used, examples, strict=True):
            array[i] = example[key]
        batch[key] = array.reshape(*numbers.shape, *array.shape[1:])
    return batch


def position(z: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Position of slice z of `count`: 0 for the first, 1 for the last, 0.5 for a single slice."""
    return np.where(count > 1, z / np.maximum(count - 1, 1), 0.5).astype(np.float32)


def evenly_spaced(count: int, k: int) -> np.ndarray:
    """k of the numbers 0..count-1: the middles of k equal parts, or all where count <= k."""
    return (2 * np.arange(k) + 1) * count // (2 * k) if count > k else np.arange(count)


def count_usable(usable: np.ndarray, plane: str, frames: Sequence[str]) -> int:
    """The number of subjects that have the frames; the log counts the rest.

    usable: bool, whether each subject asked for has the frames.
    Raises StreamError where no subject has them.
    """
    n_usable, n_asked = int(np.count_nonzero(usable)), len(usable)
    if n_usable < n_asked:
        logging.info(
            "%s: %d of %d subjects lack the frames %s and are left out",
            *(plane, n_asked - n_usable, n_asked, ", ".join(frames)),
        )
    if not n_usable:
        hint = "; prepare the dataset with --frames=all, or a number" if CINE in frames else ""
        raise StreamError(f"no subject of the {n_asked} asked for has {plane} stacks at {', '.join(frames)}{hint}")
    return n_usable


def sorted_subjects(dataset: Dataset, subjects: Sequence[int] | np.ndarray) -> np.ndarray:
    """The indices, sorted.

    Raises StreamError for an empty list, a repeated index, or one outside the dataset.
    """
    indices, n = np.unique(np.asarray(subjects, int)), len(dataset.subjects)
    if len(indices) != len(subjects) or not indices.size or indices[0] < 0 or indices[-1] >= n:
        raise StreamError(
            f"subjects must be different indices in 0..{n - 1}, at least one; got {len(subjects)} of them"
        )
    return indices
