import math

import numpy as np
import pytest

from morphojax.evaluation import statistics


def test_interval_covers_the_mean_with_its_confidence():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = statistics.bootstrap_mean(rng.normal(3, 2, 30), resamples=500, seed=seed)
        hits += interval.low <= 3 <= interval.high
    assert 180 <= hits <= 199  # binomial(200, 0.95); coverage is a little lower for small samples


def test_interval_of_large_normal_samples_is_the_normal_one():
    values = np.random.default_rng(1).normal(10, 4, 2000)
    interval = statistics.bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    assert interval.n == 2000 and interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_smaller_confidence_gives_a_narrower_interval():
    values = np.random.default_rng(1).normal(10, 4, 2000)
    interval = statistics.bootstrap_mean(values, confidence=0.5)
    half = 0.6745 * values.std(ddof=1) / math.sqrt(values.size)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
    paired = statistics.paired_difference(np.zeros(2000), values, confidence=0.5)
    assert (paired.low, paired.high) == (interval.low, interval.high)


def test_more_resamples_are_drawn_where_asked():
    values = np.random.default_rng(2).normal(size=25)
    assert statistics.bootstrap_mean(values, resamples=200) != statistics.bootstrap_mean(values, resamples=400)
    drawn = statistics.paired_difference(np.zeros(25), values, resamples=200)
    assert drawn.low == statistics.bootstrap_mean(values, resamples=200).low


def test_the_interval_of_skewed_values_is_corrected_for_their_skew():
    """BCa moves both ends of the percentile interval towards the long tail (Efron 1987)."""
    values = np.random.default_rng(3).lognormal(0, 1.2, 30)
    interval = statistics.bootstrap_mean(values)
    means = np.random.default_rng(4).choice(values, (20000, 30)).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval.low > low + 0.05 and interval.high > high + 0.3


def test_the_seed_determines_the_interval():
    values = np.random.default_rng(2).normal(size=25)
    assert statistics.bootstrap_mean(values, seed=3) == statistics.bootstrap_mean(values, seed=3)
    assert statistics.bootstrap_mean(values, seed=3) != statistics.bootstrap_mean(values, seed=4)


@pytest.mark.filterwarnings("error")
def test_degenerate_data():
    nothing = statistics.bootstrap_mean([np.nan, np.nan])
    assert nothing.n == 0 and math.isnan(nothing.mean)
    one = statistics.bootstrap_mean([0.9, np.nan])
    assert (one.n, one.mean) == (1, 0.9) and math.isnan(one.low) and math.isnan(one.high)
    same = statistics.bootstrap_mean([0.3] * 5)
    assert (same.n, same.mean, same.low, same.high) == (5, *[pytest.approx(0.3)] * 3)
    two = statistics.bootstrap_mean([0.2, 0.8])
    assert two.low == pytest.approx(0.2) and two.high == pytest.approx(0.8)


def test_phases_of_a_subject_are_averaged():
    got = statistics.per_subject([1.0, 3.0, np.nan, 5.0, np.nan], [0, 0, 1, 1, 2])
    assert got == {0: 2.0, 1: 5.0}
    with pytest.raises(ValueError, match="2 values for 1"):
        statistics.per_subject([1.0, 2.0], [0])


def test_paired_difference():
    rng = np.random.default_rng(5)
    a = rng.normal(0.8, 0.1, 40)
    b = a + rng.normal(0.02, 0.01, 40)
    got = statistics.paired_difference(a, b)
    assert got.n == 40 and got.mean == pytest.approx((b - a).mean())
    assert 0 < got.low < got.mean < got.high < 0.03 and got.p_value < 1e-4
    back = statistics.paired_difference(b, a)
    assert back.mean == pytest.approx(-got.mean) and back.p_value == pytest.approx(got.p_value)


def test_paired_difference_guards():
    a = np.array([0.1, 0.5, np.nan, 0.7])
    same = statistics.paired_difference(a, a)
    assert (same.n, same.mean, same.low, same.high, same.p_value) == (3, 0, 0, 0, 1)
    assert statistics.paired_difference(a, np.array([np.nan, 0.6, 0.2, np.nan])).n == 1
    with pytest.raises(ValueError, match="same subjects"):
        statistics.paired_difference(a, a[:2])
