import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from scipy import stats

from morphojax.evaluation import contrasts, statistics

NAN = float("nan")
UNBALANCED = ("a", "b", "a", "c", "a", "b")  # 3, 2 and 1 runs


def scores(n_runs: int = 6, n_subjects: int = 8, run_sd: float = 1.0, seed: int = 0) -> np.ndarray:
    """Runs, subjects and their interaction vary; two pairs of run and subject are missing."""
    rng = np.random.default_rng(seed)
    values = (
        rng.normal(0, run_sd, (n_runs, 1)) + rng.normal(0, 1, n_subjects) + rng.normal(0, 0.5, (n_runs, n_subjects))
    )
    values[0, 1] = values[-1, 2] = NAN
    return values


def slow_means(values: np.ndarray, sets: Sequence[Hashable], resamples: int, seed: int) -> np.ndarray:
    """The means of resamples, drawn one run and one subject at a time."""
    rng = np.random.default_rng(seed)
    runs_of = {label: [i for i, other in enumerate(sets) if other == label] for label in sets}
    labels = list(runs_of)
    means = []
    for _ in range(resamples):
        rows = []
        for _ in labels:
            runs = runs_of[labels[rng.integers(len(labels))]]
            rows += [runs[rng.integers(len(runs))] for _ in runs]
        columns = rng.integers(values.shape[1], size=values.shape[1])
        means.append(np.nanmean(values[np.ix_(rows, columns)]))
    return np.array(means)


@pytest.mark.parametrize("sets", [UNBALANCED, "aaaaaa", "abcdef"])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_hierarchical_interval_is_that_of_a_loop_over_resamples(sets: Sequence[str], confidence: float) -> None:
    values = scores() + np.array([[0], [2], [3], [4], [-3], [6]])  # runs differ within and between sets
    means = slow_means(values, sets, 3000, seed=1)
    low, high = contrasts.hierarchical_interval(values, sets, confidence, resamples=20000)
    want = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    # Quantiles of 3000 normal numbers have a standard error of 0.05 SD or less.
    assert (low, high) == pytest.approx(want, abs=0.2 * means.std())


def test_the_variance_is_that_between_and_within_sets() -> None:
    """With n seeds in each of K sets and equal subjects, the variance of a resample's mean is
    (variance of the sets' means + mean variance within a set / n) / K, all without ddof.
    """
    rng = np.random.default_rng(2)
    by_set = rng.normal(0, 1, (40, 1)) + rng.normal(0, 2, (40, 4))
    variance = (by_set.mean(1).var() + by_set.var(1).mean() / 4) / 40
    values = np.repeat(by_set.reshape(-1, 1), 3, axis=1)
    low, high = contrasts.hierarchical_interval(values, np.repeat(range(40), 4).tolist())
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)


def test_one_run_has_the_percentile_bootstrap_interval_over_subjects() -> None:
    values = np.random.default_rng(3).lognormal(0, 1, 25)
    low, high = contrasts.hierarchical_interval(values[None], ["a"], resamples=20000)
    rng = np.random.default_rng(4)
    plain = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=rng)
    want = plain.confidence_interval.low, plain.confidence_interval.high
    assert (low, high) == pytest.approx(want, abs=0.12 * plain.standard_error)


def test_a_set_that_differs_widens_the_interval() -> None:
    values = np.random.default_rng(5).normal(0, 0.1, (6, 30))
    values[:2] += 5
    by_set = np.ptp(contrasts.hierarchical_interval(values, "aabbcc"))
    within_sets = np.ptp(contrasts.hierarchical_interval(values, "abcabc"[::-1]))
    alike = np.ptp(contrasts.hierarchical_interval(values[2:], "bbcc"))
    assert alike < 0.2 and by_set == pytest.approx(5, abs=0.1)  # 5 or 0: all draws or none from set a
    assert within_sets < 0.9 * by_set


def test_runs_and_subjects_without_values_change_nothing() -> None:
    values = scores()
    gaps = np.insert(np.insert(values, 3, NAN, axis=0), [0, 4], NAN, axis=1)
    sets = [*UNBALANCED[:3], "lost", *UNBALANCED[3:]]
    want = contrasts.hierarchical_interval(values, UNBALANCED)
    assert contrasts.hierarchical_interval(gaps, sets) == want
    gaps[np.isnan(gaps)] = np.inf
    assert contrasts.hierarchical_interval(gaps, sets) == want


def test_a_large_cohort_is_resampled_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    values = scores(6, 30)
    whole = contrasts.hierarchical_interval(values, UNBALANCED)
    monkeypatch.setattr(contrasts, "BATCH_NUMBERS", 36 * 9)  # 556 batches of 9
    batches = contrasts.hierarchical_interval(values, UNBALANCED)
    assert batches != whole and batches == pytest.approx(whole, abs=0.16 * np.ptp(whole) / 4)


def test_the_seed_determines_the_interval() -> None:
    draws = [contrasts.hierarchical_interval(scores(), UNBALANCED, resamples=200, seed=seed) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.filterwarnings("error")
def test_intervals_of_degenerate_data() -> None:
    constant = np.full((3, 4), 0.1)
    constant[1, 2] = NAN
    mean = constant[~np.isnan(constant)].mean()
    assert contrasts.hierarchical_interval(constant, "aab") == (mean, mean)
    for values in (np.full((2, 3), NAN), np.zeros((0, 3)), np.zeros((2, 0)), np.array([[NAN, 0.5], [NAN, NAN]])):
        assert np.isnan(contrasts.hierarchical_interval(values, "ab"[: len(values)])).all()


def test_values_without_a_set_per_run_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one set per run, got \(2, 3\), 3 sets"):
        contrasts.hierarchical_interval(np.zeros((2, 3)), "abc")
    with pytest.raises(ValueError, match=r"got \(3,\), 3 sets"):
        contrasts.hierarchical_interval(np.zeros(3), "abc")


def test_a_contrast_agrees_with_scipy() -> None:
    a, b = scores(run_sd=0.1), scores(run_sd=0.1, seed=1) - 0.4
    b[2, 5] = a[2, 5]
    b[:, 4] = NAN
    got = contrasts.contrast(a, b, UNBALANCED)
    difference = a - b
    by_subject = np.nanmean(np.delete(difference, 4, axis=1), axis=0)
    assert (got.n_subjects, got.n_sets, got.n_runs) == (7, 3, 6)
    assert got.mean == pytest.approx(np.nanmean(difference))
    assert (got.low, got.high) == pytest.approx(contrasts.hierarchical_interval(difference, UNBALANCED))
    test = stats.ttest_1samp(by_subject, 0)
    assert (got.t_low, got.t_high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    bca = statistics.bootstrap_mean(by_subject)
    # Of 7 subjects, many resamples have the mean itself: rounding errors move the bias correction.
    assert (got.bca_low, got.bca_high) == pytest.approx((bca.low, bca.high), rel=0.01)
    assert got.p_value == pytest.approx(stats.wilcoxon(by_subject).pvalue)
    assert got.effect_size == pytest.approx(test.statistic / math.sqrt(7))


def test_the_fields_take_the_confidence_resamples_and_seed() -> None:
    a, b = scores(), scores(seed=1)
    got = contrasts.contrast(a, b, UNBALANCED, 0.5, 300, 7)
    by_subject = np.nanmean(a - b, axis=0)
    bca = statistics.bootstrap_mean(by_subject, 0.5, 300, 7)
    assert (got.bca_low, got.bca_high) == pytest.approx((bca.low, bca.high))
    assert (got.low, got.high) == pytest.approx(contrasts.hierarchical_interval(a - b, UNBALANCED, 0.5, 300, 7))
    assert (got.t_low, got.t_high) == pytest.approx(tuple(stats.ttest_1samp(by_subject, 0).confidence_interval(0.5)))


def test_improvement_counts_runs_and_subjects_and_half_of_the_ties() -> None:
    a = np.array([[0.5, 0.7, 0.9, NAN], [0.5, 0.2, 0.1, 0.3]])
    b = np.array([[0.4, 0.7, 0.8, 0.1], [0.6, 0.1, 0.5, NAN]])
    assert contrasts.contrast(a, b, "aa").improvement == (3 + 0.5) / 6
    assert contrasts.contrast(b, a, "aa").improvement == (2 + 0.5) / 6


@pytest.mark.parametrize("n", [3, 5, 30])
def test_the_detectable_difference_has_80_percent_power(n: int) -> None:
    """The power is that of a noncentral t distribution (Cohen 1988)."""
    difference = np.random.default_rng(n).normal(3, 2, (1, n))
    got = contrasts.contrast(difference, np.zeros((1, n)), "a", resamples=100)
    noncentrality = got.detectable / difference.std(ddof=1) * math.sqrt(n)
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, noncentrality) + stats.nct.cdf(-critical, n - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_swapped_arms_have_the_opposite_difference() -> None:
    a, b = scores(), scores(seed=1)
    got, back = contrasts.contrast(a, b, UNBALANCED), contrasts.contrast(b, a, UNBALANCED)
    assert (back.mean, back.low, back.t_low) == pytest.approx((-got.mean, -got.high, -got.t_high))
    assert (back.p_value, back.detectable) == pytest.approx((got.p_value, got.detectable))
    assert back.effect_size == pytest.approx(-got.effect_size)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_equal_differences_have_no_spread_in_spite_of_rounding_errors(scale: float) -> None:
    b = scale * np.random.default_rng(6).random((3, 7))
    a = b + 0.1 * scale
    assert np.ptp(a - b) > 0
    got = dataclasses.asdict(contrasts.contrast(a, b, "aab"))
    assert got["low"] == got["mean"] == got["high"]
    for name in ("mean", "low", "high", "t_low", "t_high", "bca_low", "bca_high"):
        assert got[name] == pytest.approx(0.1 * scale, rel=1e-12), name
    assert (got["p_value"], got["improvement"], got["detectable"]) == (2 / 2**7, 1, 0)  # one of 2^7 sign patterns
    assert math.isnan(got["effect_size"])
    third = contrasts.contrast(np.full((3, 7), scale * 0.3), np.full((3, 7), scale * (0.1 + 0.2)), "aab")
    assert (third.mean, third.low, third.high, third.p_value, third.improvement) == (0, 0, 0, 1, 0.5)


@pytest.mark.filterwarnings("error")
def test_contrasts_of_missing_scores() -> None:
    a, b = scores(), scores(seed=1)
    infinite = np.where(np.isnan(a), np.inf, a)
    assert contrasts.contrast(infinite, np.where(np.isnan(a), np.inf, b), UNBALANCED) == contrasts.contrast(
        a, b, UNBALANCED
    )
    for nothing in (np.full((6, 8), NAN), np.zeros((6, 0))):
        counts, rest = np.split(dataclasses.astuple(contrasts.contrast(nothing, nothing, UNBALANCED)), [3])
        assert not counts.any() and np.isnan(rest).all()
    one = contrasts.contrast(a[:, 1:2], b[:, 1:2], UNBALANCED)
    assert (one.n_subjects, one.n_sets, one.n_runs) == (1, 3, 5)
    assert one.low < one.mean < one.high and 0 <= one.improvement <= 1
    undefined = one.t_low, one.t_high, one.bca_low, one.bca_high, one.p_value, one.effect_size, one.detectable
    assert np.isnan(undefined).all()


@pytest.mark.filterwarnings("error")
def test_wilcoxon_takes_few_subjects_ties_and_zeros() -> None:
    rng = np.random.default_rng(7)
    for n in (2, 3, 10, 14, 50, 51):
        difference = rng.integers(-1, 2, (1, n)).astype(float)
        difference[0, 0] = 1
        got = contrasts.contrast(difference, np.zeros((1, n)), "a", resamples=50).p_value
        assert 0 < got <= 1 and got == stats.wilcoxon(difference[0]).pvalue


def test_arms_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(6, 8\) and \(6, 7\)"):
        contrasts.contrast(scores(), scores(n_subjects=7), UNBALANCED)
    with pytest.raises(ValueError, match="one set per run"):
        contrasts.contrast(scores(), scores(), "ab")


def test_holm() -> None:
    """0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which is raised to the step before."""
    got = contrasts.holm([0.01, 0.04, NAN, 0.03, 0.005])
    np.testing.assert_allclose(got, [0.03, 0.06, NAN, 0.06, 0.02])
    np.testing.assert_allclose(contrasts.holm([0.9, 0.6]), [1, 1])
    assert np.isnan(contrasts.holm([NAN, NAN])).all() and contrasts.holm([]).shape == (0,)
    for wrong in ([0.1, 1.2], [-0.1], [[0.1]]):
        with pytest.raises(ValueError, match=r"p-values must be in \[0, 1\]"):
            contrasts.holm(wrong)


def test_rank_stability_of_equal_and_of_reversed_ranks() -> None:
    means = np.array([0.1, 0.4, 0.2, 0.9])
    assert contrasts.rank_stability(np.stack([means, means**2, means - 3])) == pytest.approx(1)
    assert contrasts.rank_stability(np.stack([means, -means])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("decimals", [6, 0])
def test_rank_stability_agrees_with_friedman(decimals: int) -> None:
    """Friedman's statistic, corrected for ties, is seeds * (arms - 1) * W."""
    means = np.random.default_rng(8).normal([0, 1, 1, 2, 3], 1.0, (6, 5)).round(decimals)
    assert decimals or any(len(set(row)) < 5 for row in means)
    want = stats.friedmanchisquare(*means.T).statistic / (6 * 4)
    assert contrasts.rank_stability(means) == pytest.approx(want)
    gap = np.insert(means, 2, [9, NAN, 0, 0, 0], axis=0)
    assert contrasts.rank_stability(gap) == pytest.approx(want)


@pytest.mark.filterwarnings("error")
def test_rank_stability_of_degenerate_means() -> None:
    for means in (np.ones((1, 3)), np.ones((3, 1)), np.ones((3, 3)), np.full((2, 3), NAN), np.zeros((0, 3))):
        assert math.isnan(contrasts.rank_stability(means))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        contrasts.rank_stability(np.ones(3))


def test_labels_saved() -> None:
    """The baseline dips at 8 labels: its running maximum is 0.5, 0.6, 0.6, 0.8 at 2, 4, 8 and 32.

    0.55 lies halfway between 2 and 4 doublings: 2^1.5. 0.6 is first reached at 4 labels. 0.7 lies
    halfway between 8 and 32: 16.
    """
    counts, baseline = [32, 2, 8, 16, 4], [0.8, 0.5, 0.55, NAN, 0.6]
    got = contrasts.labels_saved(counts, baseline, [2, 2, 4, 8, 32, 2], [0.5, 0.55, 0.6, 0.7, 0.7, 0.8])
    assert got == pytest.approx([0, 2**1.5 - 2, 0, 8, -16, 30])
    assert np.isnan(contrasts.labels_saved(counts, baseline, [2, 8, 8], [0.49, 0.81, NAN])).all()
    assert contrasts.labels_saved([4], [0.5], [1], [0.5]) == pytest.approx([3])
    assert np.isnan(contrasts.labels_saved([], [], [1], [0.5])).all()


def test_points_that_do_not_fit_are_refused() -> None:
    for lengths in (([1], [], [], []), ([], [], [1, 2], [0.5])):
        with pytest.raises(ValueError, match="same length"):
            contrasts.labels_saved(*lengths)
    for counts in ([2, 2], [0, 2]):
        with pytest.raises(ValueError, match="positive and distinct"):
            contrasts.labels_saved(counts, [0.1, 0.2], [], [])


def coverages(n_subjects: int, sets: list[int], repeats: int, set_sd: float, seed_sd: float) -> np.ndarray:
    """How often the t, BCa and hierarchical 95 % intervals contain a true difference of 0.02.

    Subjects vary with an SD of 0.05, and pairs of run and subject with 0.03.
    """
    rng, truth = np.random.default_rng(n_subjects), 0.02
    hits = np.zeros(3)
    for repeat in range(repeats):
        of_runs = rng.normal(0, set_sd, max(sets) + 1)[sets] + rng.normal(0, seed_sd, len(sets))
        of_pairs = rng.normal(0, 0.05, n_subjects) + rng.normal(0, 0.03, (len(sets), n_subjects))
        a = truth + of_runs[:, None] + of_pairs
        got = contrasts.contrast(a, np.zeros_like(a), sets, resamples=1000, seed=repeat)
        intervals = (got.t_low, got.t_high), (got.bca_low, got.bca_high), (got.low, got.high)
        hits += [low <= truth <= high for low, high in intervals]
    return hits / repeats


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 20, 50])
def test_coverage(n: int) -> None:
    """Measured coverage of 95 % intervals, of normal differences:

    | subjects | runs | t | BCa | hierarchical percentile |
    | --- | --- | --- | --- | --- |
    | 10 | 1 | 0.950 | 0.900 | 0.900 |
    | 20 | 1 | 0.958 | 0.930 | 0.927 |
    | 50 | 1 | 0.950 | 0.942 | 0.938 |
    | 10 | 5 sets x 3 seeds | 0.927 | 0.860 | 0.917 |
    | 20 | 5 sets x 3 seeds | 0.863 | 0.817 | 0.917 |
    | 50 | 5 sets x 3 seeds | 0.743 | 0.730 | 0.917 |

    The SD is 0.02 between sets and 0.01 between seeds. t and BCa ignore this variation, so they
    cover less with more subjects. 600 repeats with one run and 300 with 15 give standard errors of
    0.009 to 0.026. The percentile interval of n normal values is mean -+ 1.96 s / sqrt(n) with the
    SD s without ddof. Student's distribution gives its coverage: 0.904, 0.929 and 0.942.
    """
    t, bca, percentile = coverages(n, [0], 600, set_sd=0, seed_sd=0)
    narrow = 2 * stats.t.cdf(1.96 * math.sqrt((n - 1) / n), n - 1) - 1
    assert t == pytest.approx(0.95, abs=0.027)  # 3 standard errors
    assert percentile == pytest.approx(narrow, abs=0.036) and percentile < t
    assert bca == pytest.approx(narrow, abs=0.036)
    t, bca, hierarchical = coverages(n, np.repeat(range(5), 3).tolist(), 300, set_sd=0.02, seed_sd=0.01)
    assert 0.87 <= hierarchical <= 0.96
    assert t <= {10: 0.96, 20: 0.92, 50: 0.82}[n] and bca <= t
