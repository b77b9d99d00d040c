"""Probes that predict a value per subject from frozen embeddings, and scores of predictions.

Predictions are probabilities [N, C] of the classes 0..C-1, or values [N]. Intervals are over
subjects.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from morphojax.evaluation.statistics import NAN, Interval, bootstrap_mean

FEW = 20  # with fewer validation subjects, a probe's setting is chosen by cross-validation
FOLDS = 5
# From the strongest regularisation to the weakest; of equally good settings the first is taken.
SETTINGS: Mapping[str, Sequence[float]] = {
    "linear": tuple(10.0**power for power in range(5, -4, -1)),  # weight of the squared norm of the coefficients
    "knn": (50, 20, 10, 5, 3, 1),  # neighbours
}
_CELLS = 2_000_000  # resampled values held at once

Statistic = Callable[[np.ndarray], np.ndarray]  # index [R, N] of resampled subjects -> [R]


def macro_auc(target: np.ndarray, probability: np.ndarray) -> float:
    """Mean area under the ROC curve of each class against the rest; ties count half.

    target int [N], probability [N, C]. A class of no subject, or of all subjects, is left out; NaN
    if none is left.
    """
    target, probability = _classes(target, probability)
    return float(_macro_auc(target, probability, np.arange(len(target))[None])[0])


def balanced_accuracy(target: np.ndarray, probability: np.ndarray) -> float:
    """The recall of the most probable class, averaged over the classes that occur.

    target int [N], probability [N, C]. NaN without subjects.
    """
    target, probability = _classes(target, probability)
    return float(_balanced_accuracy(target, probability, np.arange(len(target))[None])[0])


def pearson_r(target: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson's correlation of two [N]; NaN for fewer than two subjects or a constant."""
    target, predicted = _values(target, predicted)
    return float(_pearson_r(target, predicted, np.arange(len(target))[None])[0])


def measures(target: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """`auc` and `balanced_accuracy` of [N, C] probabilities; `mae` and `r` of [N] values."""
    if np.ndim(predicted) == 2:
        return {"auc": macro_auc(target, predicted), "balanced_accuracy": balanced_accuracy(target, predicted)}
    target, predicted = _values(target, predicted)
    mae = float(np.abs(predicted - target).mean()) if len(target) else NAN
    return {"mae": mae, "r": pearson_r(target, predicted)}


def score(
    target: np.ndarray, predicted: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """`measures` with bootstrap intervals over subjects.

    The mean absolute error gets the interval of `bootstrap_mean`, the other measures percentile
    intervals. For classes the bootstrap is stratified, so that no resample lacks a class (as in
    pROC: Robin et al. 2011, BMC Bioinformatics 12:77). Bounds are NaN where a measure is NaN or
    with fewer than two subjects.
    """
    values = measures(target, predicted)
    if np.ndim(predicted) == 2:
        target, predicted = _classes(target, predicted)
        strata = target
        statistics: dict[str, Statistic] = {
            "auc": lambda index: _macro_auc(target, predicted, index),
            "balanced_accuracy": lambda index: _balanced_accuracy(target, predicted, index),
        }
    else:
        target, predicted = _values(target, predicted)
        strata = np.zeros(len(target), int)
        statistics = {"r": lambda index: _pearson_r(target, predicted, index)}
    intervals = {
        name: _percentiles(statistic, values[name], strata, confidence, resamples, seed)
        for name, statistic in statistics.items()
    }
    if "mae" in values:
        intervals = {"mae": bootstrap_mean(np.abs(predicted - target), confidence, resamples, seed), **intervals}
    return intervals


class Probe(NamedTuple):
    """A fitted probe.

    predict:   embeddings [M, D] -> probabilities [M, C] or values [M].
    setting:   see SETTINGS.
    chosen_on: `validation` or `cross-validation`.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    setting: float
    chosen_on: str


def fit_probe(
    kind: str, x: np.ndarray, target: np.ndarray, held_x: np.ndarray, held_target: np.ndarray, classes: int = 0
) -> Probe:
    """Fits a probe to standardised embeddings.

    `linear`: logistic regression with balanced class weights, or ridge regression. `knn`: the class
      fractions, or
    the mean value, of the nearest neighbours by cosine.

    Args:
        x, target: embeddings [N, D] and targets [N] of the training subjects: class codes
            0..classes-1, each at least twice, or values.
        held_x, held_target: the same of the validation subjects, on which the setting is chosen by
            squared error (of the probabilities, with equal weight for all classes: Brier 1950). If
            there are fewer than FEW, or a class is missing, the setting is chosen by
            cross-validation on the training subjects.
        classes: number of classes; 0 for values.

    Raises:
        ValueError: an unknown kind, embeddings that are not finite, or fewer than two training
          subjects (of every class).
    """
    if kind not in SETTINGS:
        raise ValueError(f"kind={kind!r} is unknown: choose one of {', '.join(SETTINGS)}")
    x, target = np.asarray(x, float), np.asarray(target, int if classes else float)
    if not np.isfinite(x).all():
        raise ValueError("embeddings must be finite")
    smallest_class = int(np.bincount(target, minlength=classes).min()) if classes else len(target)
    if smallest_class < 2:
        raise ValueError(
            f"a probe needs two training subjects{' of every class' if classes else ''}, got {smallest_class}"
        )
    on_validation = len(held_target) >= FEW and (not classes or len(np.unique(held_target)) == classes)
    if on_validation:
        splits = [(x, target, np.asarray(held_x, float), np.asarray(held_target))]
    else:
        folds = (StratifiedKFold if classes else KFold)(min(FOLDS, smallest_class), shuffle=True, random_state=0)
        splits = [(x[fit], target[fit], x[rest], target[rest]) for fit, rest in folds.split(x, target)]
    smallest = min(len(fit_target) for _, fit_target, _, _ in splits)
    settings = [s for s in SETTINGS[kind] if kind != "knn" or s <= smallest]

    def error(setting: float) -> float:
        errors = [
            _error(true, _predict(_model(kind, setting, classes).fit(fit_x, fit_target), new_x, classes), classes)
            for fit_x, fit_target, new_x, true in splits
        ]
        return float(np.mean(errors))

    best = min(settings, key=error)
    model = _model(kind, best, classes).fit(x, target)
    return Probe(lambda new: _predict(model, new, classes), best, "validation" if on_validation else "cross-validation")


def _model(kind: str, setting: float, classes: int) -> Any:
    if kind == "linear":
        # C is the inverse of the penalty weight, which Ridge calls alpha.
        last = (
            LogisticRegression(C=1 / setting, class_weight="balanced", max_iter=2000)
            if classes
            else Ridge(alpha=setting)
        )
    else:
        last = (KNeighborsClassifier if classes else KNeighborsRegressor)(int(setting), metric="cosine")
    return make_pipeline(StandardScaler(), last)


def _predict(model: Any, x: np.ndarray, classes: int) -> np.ndarray:
    return model.predict_proba(x) if classes else model.predict(x)


def _error(target: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    if not classes:
        return float(np.square(predicted - target).mean())
    target = target.astype(int)
    squared = np.square(predicted - np.eye(classes)[target]).sum(1)
    return float(np.mean([squared[target == c].mean() for c in np.unique(target)]))


def _classes(target: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, probability = np.asarray(target), np.asarray(probability, float)
    if probability.ndim != 2 or target.shape != probability.shape[:1]:
        raise ValueError(f"classes need target [N] and probability [N, C], got {target.shape} and {probability.shape}")
    codes = np.nan_to_num(target, nan=-1).astype(int)
    if (codes != target).any() or (codes < 0).any() or (codes >= probability.shape[1]).any():
        raise ValueError(f"targets must be class codes 0..{probability.shape[1] - 1}")
    return codes, probability


def _values(target: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, predicted = np.asarray(target, float), np.asarray(predicted, float)
    if target.ndim != 1 or target.shape != predicted.shape:
        raise ValueError(f"values need two [N] arrays of the same length, got {target.shape} and {predicted.shape}")
    return target, predicted


def _macro_auc(target: np.ndarray, probability: np.ndarray, index: np.ndarray) -> np.ndarray:
    """index [R, N] keeps the class of each position, so `target` holds for every resample."""
    areas = []
    for c in range(probability.shape[1]):
        positive = target == c
        n, rest = int(positive.sum()), int((~positive).sum())
        if n and rest:
            # Mann-Whitney statistic: the fraction of pairs in which the subject of the class has
            # the higher score.
            ranks = stats.rankdata(probability[index, c], axis=1)[:, positive].sum(1)
            areas.append((ranks - n * (n + 1) / 2) / (n * rest))
    return np.mean(areas, axis=0) if areas else np.full(len(index), NAN)


def _balanced_accuracy(target: np.ndarray, probability: np.ndarray, index: np.ndarray) -> np.ndarray:
    correct = (probability.argmax(1) == target)[index]
    recalls = [correct[:, target == c].mean(1) for c in np.unique(target)]
    return np.mean(recalls, axis=0) if recalls else np.full(len(index), NAN)


def _pearson_r(target: np.ndarray, predicted: np.ndarray, index: np.ndarray) -> np.ndarray:
    if not index.size:
        return np.full(len(index), NAN)
    a, b = target[index], predicted[index]
    # ptp instead of the variance, which for equal numbers may be above 0 by rounding.
    defined = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(index), NAN), where=defined)


def _percentiles(
    statistic: Statistic, value: float, strata: np.ndarray, confidence: float, resamples: int, seed: int
) -> Interval:
    n = len(strata)
    if n < 2 or np.isnan(value):
        return Interval(n, value, NAN, NAN)
    random, step = np.random.default_rng(seed), max(1, _CELLS // n)
    drawn = [statistic(_resample(random, strata, min(step, resamples - done))) for done in range(0, resamples, step)]
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(n, value, float(low), float(high))


def _resample(random: np.random.Generator, strata: np.ndarray, count: int) -> np.ndarray:
    """int [count, N]: subjects drawn with replacement within their stratum."""
    index = np.empty((count, len(strata)), int)
    for s in np.unique(strata):
        members = np.flatnonzero(strata == s)
        index[:, members] = members[random.integers(len(members), size=(count, len(members)))]
    return index
