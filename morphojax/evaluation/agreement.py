"""Agreement of two measurements of the same quantity: Bland and Altman, Lancet 1986, and
Statistical Methods in Medical Research 1999 (8:135-160).
"""

import dataclasses
import math

import numpy as np
from scipy import stats

Z = 1.96  # SDs from the bias to a limit of agreement


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
    half_width = Z * float(difference.std(ddof=1)) if n > 1 else nan
    return Agreement(
        n, bias, bias - half_width, bias + half_width, float(np.abs(difference).mean()), _pearson(reference, predicted)
    )


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Confidence intervals (low, high) of the bias and both limits of agreement; NaN if n < 2."""

    bias: tuple[float, float]
    lower: tuple[float, float]
    upper: tuple[float, float]


def intervals(result: Agreement, confidence: float = 0.95) -> Intervals:
    """Student's t intervals, with n - 1 degrees of freedom, for normally distributed differences.

    Standard errors (Bland and Altman 1999, section 2.1): SD sqrt(1 / n) of the bias, and
    SD sqrt(1 / n + Z^2 / (2 (n - 1))) of a limit.
    """
    if result.n < 2:
        return Intervals(*[(float("nan"), float("nan"))] * 3)
    sd = (result.upper - result.bias) / Z
    t = float(stats.t.ppf((1 + confidence) / 2, result.n - 1))
    of_bias = t * sd * math.sqrt(1 / result.n)
    of_limit = t * sd * math.sqrt(1 / result.n + Z**2 / (2 * (result.n - 1)))
    return Intervals(
        (result.bias - of_bias, result.bias + of_bias),
        (result.lower - of_limit, result.lower + of_limit),
        (result.upper - of_limit, result.upper + of_limit),
    )


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    # ptp instead of std: the std of equal numbers may be above 0 by rounding, and r would be noise.
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
