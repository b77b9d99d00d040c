"""Bootstrap intervals over subjects, and paired differences between two arms.

Seeded, so results are reproducible.
"""

import dataclasses
import warnings
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over n subjects and its bootstrap interval; the bounds are NaN if n < 2."""

    n: int
    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Paired:
    """The mean of b - a over n subjects, its interval, and Wilcoxon's signed-rank p-value."""

    n: int
    mean: float
    low: float
    high: float
    p_value: float


def per_subject(values: Sequence[float] | np.ndarray, subjects: Sequence[Hashable]) -> dict[Hashable, float]:
    """The mean of each subject's finite values: phases of a heart are not independent samples."""
    values = np.asarray(values, float)
    if len(values) != len(subjects):
        raise ValueError(f"{len(values)} values for {len(subjects)} subjects")
    groups: dict[Hashable, list[float]] = {}
    for subject, value in zip(subjects, values, strict=True):
        if np.isfinite(value):
            groups.setdefault(subject, []).append(float(value))
    return {subject: float(np.mean(group)) for subject, group in groups.items()}


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, resamples: int = 5000, seed: int = 0
) -> Interval:
    """Mean of one value per subject with its BCa bootstrap interval (Efron 1987).

    NaN values are left out.

    For constant data the interval is the mean. Where BCa is undefined, the percentile interval is
    used.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Interval(0, NAN, NAN, NAN)
    mean = float(values.mean())
    if values.size == 1:
        return Interval(1, mean, NAN, NAN)
    if np.ptp(values) == 0:
        return Interval(values.size, mean, mean, mean)
    low = high = NAN
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=confidence,
                n_resamples=resamples,
                method=method,
                batch=max(1, 2_000_000 // values.size),  # bounds memory for large cohorts
                rng=np.random.default_rng(seed),
            )
        low, high = map(float, result.confidence_interval)
        if np.isfinite(low) and np.isfinite(high):
            break
    return Interval(values.size, mean, low, high)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Paired:
    """The difference b - a of two arms on the same subjects in the same order.

    A pair with a NaN is left out.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired arms need the same subjects in the same order, got shapes {a.shape} and {b.shape}")
    difference = (b - a)[np.isfinite(a) & np.isfinite(b)]
    interval = bootstrap_mean(difference, confidence, resamples, seed)
    p_value = NAN
    if difference.size > 1:
        p_value = 1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue)
    return Paired(interval.n, interval.mean, interval.low, interval.high, p_value)
