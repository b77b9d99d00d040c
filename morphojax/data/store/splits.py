"""Splits and subsets of subjects by a hash of their id.

Adding subjects to a cohort never changes existing assignments.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

SPLITS = ("train", "val", "test")


def _unit(subject: str, seed: int, purpose: str) -> float:
    """A number in [0, 1) that depends only on the arguments, from a hash of them."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(subject_ids: Sequence[str], fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """The split (str [N]) of every subject.

    fractions: of train, val and test; they sum to 1, and an absent one is 0. Each subject is
        assigned on its own, so the splits of a small cohort only approximate the fractions.
    Raises ValueError for unknown splits and impossible fractions.
    """
    unknown = sorted(set(fractions) - set(SPLITS))
    if unknown:
        raise ValueError(f"unknown split {', '.join(unknown)}; known: {', '.join(SPLITS)}")
    ordered = [fractions.get(s, 0.0) for s in SPLITS]
    if min(ordered) < 0 or abs(sum(ordered) - 1) > 1e-6:
        raise ValueError(f"split fractions must be at least 0 and sum to 1, not {dict(fractions)}")
    edges = np.cumsum(ordered)[:-1]
    units = np.array([_unit(s, seed, "split") for s in subject_ids])
    return np.array(SPLITS)[np.searchsorted(edges, units, side="right")]


def nested(subject_ids: Sequence[str], fraction: float, seed: int) -> tuple[int, ...]:
    """Indices (ascending) of a random `fraction` of the subjects, at least one.

    With the same seed, a larger fraction contains every smaller one: the seed orders the subjects
    by hash, and the first of them are taken. Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], not {fraction}")
    order = sorted(range(len(subject_ids)), key=lambda i: (_unit(subject_ids[i], seed, "subset"), subject_ids[i]))
    count = max(1, round(fraction * len(subject_ids)))
    return tuple(sorted(order[:count]))
