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
