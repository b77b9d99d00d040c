"""Paired contrasts of two arms over labelled sets, seeds and test subjects.

A run is one labelled set and one seed. Scores are arrays [runs, subjects]; NaN marks a subject that
a run lacks, and an infinite score counts as NaN. Seeded, so results are reproducible.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from morphojax.evaluation import statistics

NAN = float("nan")
DIGITS = 12  # of a difference, relative to the largest score; the digits beyond are rounding errors
BATCH_NUMBERS = 2_000_000  # weights in memory at once, for cohorts with many subjects


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The difference a - b of two arms, in the unit of the score unless said otherwise.

    A pair is one run and one subject with a finite score in both arms. Runs, sets and subjects
    without a pair are not counted. "Subjects' differences" are one number per subject: the mean
    over its runs.

    Without a pair, the counts are 0 and all else is NaN. With fewer than two subjects, every field
    from `t_low` to `bca_high`, and `p_value`, `effect_size` and `detectable`, are NaN.
    """

    n_subjects: int
    n_sets: int
    n_runs: int
    mean: float  # over pairs; where scores are missing, the mean over subjects may differ
    low: float  # hierarchical_interval of `mean`
    high: float
    t_low: float  # Student's t interval of the mean of subjects' differences
    t_high: float
    bca_low: float  # BCa bootstrap interval of the mean of subjects' differences
    bca_high: float
    p_value: float  # Wilcoxon signed-rank test of subjects' differences; 1 if all of them are 0
    improvement: float  # fraction of pairs with a > b; a tie counts half
    effect_size: float  # d_z: mean / SD of subjects' differences, no unit; NaN if SD = 0
    detectable: float  # mean found with 80 % power by a two-sided 5 % paired t test; 0 if SD = 0


def hierarchical_interval(
    values: np.ndarray, sets: Sequence[Hashable], confidence: float = 0.95, resamples: int = 5000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of values [runs, subjects]; `sets` has the set of each run.

    A resample draws labelled sets with replacement, and as many runs as a drawn set has from it
    (Davison and Hinkley 1997, section 3.8). Crossed with the runs, it draws test subjects
    (pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1). A single set, run or subject
    contributes no variation. With few sets or subjects the interval is too narrow, as percentile
    intervals are; variation within a set, and between run and subject, is counted more than once.

    Runs and subjects without a finite value are left out. The bounds are NaN with fewer than two
    finite values, and the mean for constant values. Raises ValueError if `values` has not two axes
    or `sets` has another length than runs.
    """
    values = _checked(values, sets)
    finite = np.isfinite(values)
    if finite.sum() < 2:
        return NAN, NAN
    mean = float(values[finite].mean())
    if np.ptp(values[finite]) == 0:
        return mean, mean
    kept, subjects = np.any(finite, axis=1), np.any(finite, axis=0)
    finite = finite[kept][:, subjects]
    deviations = np.where(finite, values[kept][:, subjects] - mean, 0.0)
    n_subjects = finite.shape[1]
    groups = _runs_by_set(sets, kept)
    rng = np.random.default_rng(seed)
    batch = max(1, BATCH_NUMBERS // sum(finite.shape))
    means = []
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        of_runs = _run_weights(groups, size, rng)
        of_subjects = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size)
        totals = ((of_runs @ deviations) * of_subjects).sum(1)
        counts = ((of_runs @ finite) * of_subjects).sum(1)
        means.append(mean + totals[counts > 0] / counts[counts > 0])
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def contrast(
    a: np.ndarray,
    b: np.ndarray,
    sets: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Contrast:
    """The difference a - b of scores [runs, subjects]; `sets` has the labelled set of each run.

    Row i of both arms has the same set and seed; column j is the same subject. `confidence` is that
    of the three intervals. Differences are rounded to DIGITS digits of the largest score, so that
    differences equal up to rounding errors count as equal. Where a lower score is better, a small
    `improvement` favours a; it is the paired form of the probability of improvement of Agarwal et
    al. (2021, NeurIPS). Raises ValueError if the shapes differ, and where
    hierarchical_interval does.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired arms need the same runs and subjects, got shapes {a.shape} and {b.shape}")
    finite = np.isfinite(a) & np.isfinite(b)
    differences = np.subtract(a, b, out=np.full(a.shape, NAN), where=finite)
    digits = DIGITS - math.ceil(math.log10(np.max(np.abs([a, b]), where=finite, initial=1e-200)))
    differences = np.round(_checked(differences, sets), digits)
    low, high = hierarchical_interval(differences, sets, confidence, resamples, seed)
    pairs = differences[finite]
    by_subject = np.round(np.nanmean(differences[:, finite.any(0)], axis=0), digits)
    runs, n = np.any(finite, axis=1), by_subject.size
    bca = statistics.bootstrap_mean(by_subject, confidence, resamples, seed)
    half = sd = NAN
    if n > 1:
        sd = float(by_subject.std(ddof=1)) if np.ptp(by_subject) > 0 else 0.0
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Contrast(
        n_subjects=n,
        n_sets=len(_runs_by_set(sets, runs)),
        n_runs=int(runs.sum()),
        mean=float(pairs.mean()) if pairs.size else NAN,
        low=low,
        high=high,
        t_low=bca.mean - half,
        t_high=bca.mean + half,
        bca_low=bca.low,
        bca_high=bca.high,
        p_value=_wilcoxon(by_subject),
        improvement=float((1 + np.sign(pairs)).mean() / 2) if pairs.size else NAN,
        effect_size=bca.mean / sd if sd > 0 else NAN,
        detectable=_detectable_effect(n) * sd if n > 1 else NAN,
    )


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The p-values of one family, corrected for their number (Holm 1979, step-down Bonferroni).

    NaN is left out of the family and stays NaN. Raises ValueError unless the values are in [0, 1]
    and on one axis.
    """
    p_values = np.asarray(p_values, float)
    present = ~np.isnan(p_values)
    if p_values.ndim != 1 or np.any((p_values[present] < 0) | (p_values[present] > 1)):
        raise ValueError(f"p-values must be in [0, 1] and on one axis, got {p_values}")
    corrected = np.full(p_values.shape, NAN)
    if present.any():
        corrected[present] = multipletests(p_values[present], method="holm")[1]
    return corrected


def rank_stability(means: np.ndarray) -> float:
    """Kendall's W of the arms' ranks over seeds, from means [seeds, arms]; corrected for ties.

    1: every seed ranks the arms alike. 0: every arm has the same mean rank. W is the variance of
    the mean ranks divided by the mean variance of a seed's ranks, which equals the formula with
    tie correction (Kendall and Gibbons 1990, chapter 6). A seed that lacks an arm (NaN) is left
    out. NaN for fewer than two seeds or arms, or where every seed ties all arms.
    """
    means = np.asarray(means, float)
    if means.ndim != 2:
        raise ValueError(f"means must be [seeds, arms], got shape {means.shape}")
    means = means[~np.isnan(means).any(1)]
    if min(means.shape) < 2:
        return NAN
    ranks = stats.rankdata(means, axis=1)
    within = float(ranks.var(axis=1).mean())
    return float(ranks.mean(axis=0).var()) / within if within > 0 else NAN


def labels_saved(
    counts: Sequence[float], baseline: Sequence[float], arm_counts: Sequence[float], arm_means: Sequence[float]
) -> list[float]:
    """Labelled subjects that the baseline needs for an arm's mean, minus those that the arm had.

    `baseline` has the baseline's mean score at each of `counts` labelled subjects, and `arm_means`
    the arm's at each of `arm_counts`. A higher score is better: negate errors. One number per point
    of the arm, above 0 where the arm needs fewer labels:

    1. Sort the baseline's points by count, without those whose mean is NaN.
    2. Replace each mean by the running maximum: a dip at more labels does not count.
    3. Join the points by straight lines over log2(count). The need is the smallest count at which
       this curve reaches the arm's mean.

    NaN where the arm's mean is NaN, below the curve's first point (fewer labels may be enough) or
    above its last (more may be needed). Raises ValueError if lengths differ, or if the baseline's
    counts are not positive and distinct.
    """
    if len(counts) != len(baseline) or len(arm_counts) != len(arm_means):
        lengths = f"{len(counts)} and {len(baseline)}, {len(arm_counts)} and {len(arm_means)}"
        raise ValueError(f"counts and means must have the same length, got {lengths}")
    if not all(count > 0 for count in counts) or len(set(counts)) < len(counts):
        raise ValueError(f"the baseline's counts must be positive and distinct, got {list(counts)}")
    points = sorted((count, mean) for count, mean in zip(counts, baseline, strict=True) if math.isfinite(mean))
    doublings = [math.log2(count) for count, _ in points]
    curve = np.maximum.accumulate([mean for _, mean in points])
    saved = []
    for count, mean in zip(arm_counts, arm_means, strict=True):
        i = int(np.searchsorted(curve, mean))  # first point with curve[i] >= mean; NaN: none
        if i == len(curve) or mean < curve[0]:
            saved.append(NAN)
            continue
        need = doublings[i]
        if i > 0:
            need -= (doublings[i] - doublings[i - 1]) * float((curve[i] - mean) / (curve[i] - curve[i - 1]))
        saved.append(2**need - count)
    return saved


def _checked(values: np.ndarray, sets: Sequence[Hashable]) -> np.ndarray:
    """The values as floats. Raises ValueError unless they are [runs, subjects], a set per run."""
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) != len(sets):
        raise ValueError(f"values must be [runs, subjects] with one set per run, got {values.shape}, {len(sets)} sets")
    return values


def _runs_by_set(sets: Sequence[Hashable], kept: np.ndarray) -> list[list[int]]:
    """The runs of each set, as indices into the kept runs."""
    runs: dict[Hashable, list[int]] = {}
    for i, of_run in enumerate(itertools.compress(sets, kept)):
        runs.setdefault(of_run, []).append(i)
    return list(runs.values())


def _run_weights(groups: list[list[int]], size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `size` resamples has each run [size, runs]."""
    drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size)
    weights = np.zeros((size, sum(map(len, groups))))
    for times, runs in zip(drawn.T, groups, strict=True):
        weights[:, runs] = rng.multinomial(times * len(runs), np.full(len(runs), 1 / len(runs)))
    return weights


def _wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p-value of the signed-rank test; differences of 0 are left out."""
    if differences.size < 2:
        return NAN
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


@functools.cache
def _detectable_effect(n: int) -> float:
    """The d_z that a two-sided 5 % paired t test of n subjects finds with 80 % power."""
    return float(TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8))
