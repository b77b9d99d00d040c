"""Agreement of two measurements of the same quantity (Bland and Altman, Lancet 1986)."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Agreement:
    """In the unit of the measure, except `pearson_r`.

    NaN where undefined: too few pairs or constant data.
    """

    n: int
    bias: float  # mean of predicted - reference
    lower: float  # bias - 1.96 SD
    upper: float  # bias + 1.96 SD
    mae: float
    pearson_r: float


def pairs(reference: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs with two finite values. Raises ValueError if the two arrays differ in length."""
    reference, predicted = np.asarray(reference, float), np.asarray(predicted, float)
    if reference.shape != predicted.shape or reference.ndim != 1:
        raise ValueError(
            f"agreement needs two [N] arrays of the same length, got {reference.shape} and {predicted.shape}"
        )
    both = np.isfinite(reference) & np.isfinite(predicted)
    return reference[both], predicted[both]


def bland_altman(reference: np.ndarray, predicted: np.ndarray) -> Agreement:
    """Bias, limits of agreement (1.96 sample SDs), r and mean absolute error; NaN = missing."""
    reference, predicted = pairs(reference, predicted)
    n, nan = reference.size, float("nan")
    if n == 0:
        return Agreement(0, nan, nan, nan, nan, nan)
    difference = predicted - reference
    bias = float(difference.mean())
    half_width = 1.96 * float(difference.std(ddof=1)) if n > 1 else nan
    return Agreement(
        n, bias, bias - half_width, bias + half_width, float(np.abs(difference).mean()), _pearson(reference, predicted)
    )


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    # ptp instead of std: the std of equal numbers may be above 0 by rounding, and r would be noise.
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
