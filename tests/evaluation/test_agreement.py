import math

import numpy as np
import pytest

from morphojax.evaluation import agreement


def test_by_hand():
    got = agreement.bland_altman(np.array([1.0, 2.0, 3.0, np.nan, 5.0]), np.array([2.0, 2.0, 6.0, 7.0, np.nan]))
    # differences 1, 0, 3: mean 4/3, sample variance (1/9 + 16/9 + 25/9) / 2 = 7/3
    sd = math.sqrt(7 / 3)
    assert (got.n, got.bias, got.mae) == (3, pytest.approx(4 / 3), pytest.approx(4 / 3))
    assert (got.lower, got.upper) == (pytest.approx(4 / 3 - 1.96 * sd), pytest.approx(4 / 3 + 1.96 * sd))
    # deviations (-1, 0, 1) and (-4/3, -4/3, 8/3): covariance sum 4, norms sqrt(2) and sqrt(96/9)
    assert got.pearson_r == pytest.approx(4 / math.sqrt(2 * 96 / 9))


def test_intervals_by_hand():
    result = agreement.bland_altman(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 6.0]))
    sd, t = math.sqrt(7 / 3), 4.302653  # Student's t, 97.5 %, 2 degrees of freedom
    of_bias, of_limit = t * sd * math.sqrt(1 / 3), t * sd * math.sqrt(1 / 3 + 1.96**2 / (2 * 2))
    got = agreement.intervals(result)
    assert got.bias == pytest.approx((4 / 3 - of_bias, 4 / 3 + of_bias))
    assert got.lower == pytest.approx((4 / 3 - 1.96 * sd - of_limit, 4 / 3 - 1.96 * sd + of_limit))
    assert got.upper == pytest.approx((4 / 3 + 1.96 * sd - of_limit, 4 / 3 + 1.96 * sd + of_limit))
    few = agreement.intervals(agreement.bland_altman(np.array([1.0]), np.array([2.0])))
    assert all(math.isnan(x) for pair in (few.bias, few.lower, few.upper) for x in pair)


def test_intervals_hold_the_limits_of_normal_differences_in_95_per_cent_of_samples():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (2000, 20))
    found = [agreement.intervals(agreement.bland_altman(np.zeros(20), d)) for d in draws]
    true = {"bias": 2.0, "lower": 2.0 - 1.96 * 3.0, "upper": 2.0 + 1.96 * 3.0}
    for name, value in true.items():
        covered = np.mean([low <= value <= high for low, high in (getattr(f, name) for f in found)])
        assert covered == pytest.approx(0.95, abs=0.02), name


def test_mean_absolute_error_is_not_the_bias():
    assert agreement.bland_altman(np.array([0.0, 0.0]), np.array([-3.0, 5.0])).mae == 4


def test_too_few_or_constant_data():
    nothing = agreement.bland_altman(np.array([np.nan]), np.array([1.0]))
    assert nothing.n == 0 and all(math.isnan(x) for x in (nothing.bias, nothing.lower, nothing.mae, nothing.pearson_r))
    one = agreement.bland_altman(np.array([1.0]), np.array([3.0]))
    assert (one.n, one.bias) == (1, 2) and math.isnan(one.upper) and math.isnan(one.pearson_r)
    constant = agreement.bland_altman(np.full(7, 0.1), np.arange(7) / 10)
    assert math.isfinite(constant.upper) and math.isnan(constant.pearson_r)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        agreement.bland_altman(np.zeros(2), np.zeros(3))
