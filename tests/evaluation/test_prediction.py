"""Scores against scikit-learn, by hand and by simulation; probes on synthetic embeddings."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from morphojax.evaluation import figures, prediction


def random_prediction(n=40, classes=3, seed=0, digits=1):
    """Targets and correlated probabilities, rounded so that there are ties."""
    random = np.random.default_rng(seed)
    target = np.arange(n) % classes
    odds = np.round(random.gamma(1 + 2 * np.eye(classes)[target]) + 0.1, digits)
    return target, odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_of_classes_are_those_of_scikit_learn(classes):
    target, probability = random_prediction(classes=classes)
    scores = prediction.measures(target, probability)
    each = [roc_auc_score(target == c, probability[:, c]) for c in range(classes)]
    assert scores["auc"] == pytest.approx(np.mean(each), abs=1e-12)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, probability.argmax(1)))


def test_auc_counts_pairs_and_half_for_ties():
    target, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.9])
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a, b in itertools.product(p[:2], p[2:])]
    assert prediction.macro_auc(target, np.stack([1 - p, p], 1)) == pytest.approx(np.mean(pairs)) == 0.875


def test_a_class_without_subjects_is_left_out():
    target, probability = random_prediction(classes=3)
    kept = target < 2
    scores = prediction.macro_auc(target[kept], probability[kept])
    each = [roc_auc_score(target[kept] == c, probability[kept, c]) for c in range(2)]
    assert scores == pytest.approx(np.mean(each))
    assert np.isnan(prediction.macro_auc(np.zeros(4, int), np.full((4, 2), 0.5)))


def test_scores_of_values_by_hand():
    target, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 5.0, 3.0])
    scores = prediction.measures(target, predicted)
    assert scores["mae"] == 1.0
    assert scores["r"] == pytest.approx(stats.pearsonr(target, predicted).statistic)
    assert np.isnan(prediction.pearson_r(target, np.full(4, 0.1)))
    assert np.isnan(prediction.pearson_r(target[:1], predicted[:1]))


def test_intervals_contain_the_estimate_are_seeded_and_narrow_with_n():
    def width(n):
        interval = prediction.score(*random_prediction(n))["auc"]
        assert interval.low < interval.mean < interval.high and interval.n == n
        return interval.high - interval.low

    assert width(400) < 0.5 * width(40)
    target, probability = random_prediction()
    assert prediction.score(target, probability) == prediction.score(target, probability)
    assert prediction.score(target, probability) != prediction.score(target, probability, seed=1)


def test_intervals_of_r_agree_with_fisher():
    random = np.random.default_rng(3)
    target = random.normal(size=300)
    predicted = 0.6 * target + 0.8 * random.normal(size=300)
    interval = prediction.score(target, predicted)["r"]
    expected = stats.pearsonr(target, predicted).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.03)


def test_intervals_of_auc_agree_with_the_normal_theory():
    """The variance of an AUC by its components over the subjects of each class (DeLong et al.
    1988).
    """
    random = np.random.default_rng(4)
    target = np.repeat([0, 1], 150)
    score = random.normal(target * 1.0)
    above = np.array([[float(b > a) for a in score[:150]] for b in score[150:]])
    spread = 1.96 * np.sqrt(above.mean(1).var(ddof=1) / 150 + above.mean(0).var(ddof=1) / 150)
    p = stats.norm.cdf(score)
    interval = prediction.score(target, np.stack([1 - p, p], 1))["auc"]
    assert interval.mean == pytest.approx(above.mean())
    assert (interval.low, interval.high) == pytest.approx((above.mean() - spread, above.mean() + spread), abs=0.015)
    assert interval.high - interval.low == pytest.approx(2 * spread, rel=0.1)


def test_no_resample_lacks_a_class():
    """One subject of the second class: without stratification, a third of the resamples would lack
    it.
    """
    target, p = np.array([0, 0, 0, 0, 1]), np.array([0.1, 0.6, 0.3, 0.2, 0.5])
    interval = prediction.score(target, np.stack([1 - p, p], 1))["auc"]
    assert interval.mean == 0.75 and 0 <= interval.low < 0.75 < interval.high <= 1
    index = prediction._resample(np.random.default_rng(0), target, 50)
    np.testing.assert_array_equal(target[index], np.broadcast_to(target, (50, 5)))
    assert len(np.unique(index[:, 0])) == 4


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_subjects_give_no_interval(n):
    values = prediction.score(np.ones(n), np.zeros(n))
    classes = prediction.score(np.zeros(n, int), np.full((n, 2), 0.5))
    for interval in (*values.values(), *classes.values()):
        assert np.isnan(interval.low) and np.isnan(interval.high)


def test_shapes_and_codes_are_checked():
    with pytest.raises(ValueError, match="classes need"):
        prediction.measures(np.zeros(3, int), np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"codes 0\.\.1"):
        prediction.measures(np.array([0, 2]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"codes 0\.\.1"):
        prediction.measures(np.array([0, np.nan]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="values need"):
        prediction.measures(np.zeros(3), np.zeros(4))


def embeddings(n, dimensions=6, seed=0):
    """One informative dimension, with a much smaller scale than the others."""
    x = np.random.default_rng(seed).normal(size=(n, dimensions))
    x[:, 0] *= 1e-3
    return x, x[:, 0] * 1e3


@pytest.mark.parametrize("kind", prediction.SETTINGS)
@pytest.mark.parametrize("held", [0, 60])
def test_probes_find_an_informative_dimension(kind, held):
    x, signal = embeddings(240)
    code = (signal > 0.5).astype(int)  # unbalanced
    train, chosen, test = slice(0, 120), slice(120, 120 + held), slice(180, None)
    by = "validation" if held else "cross-validation"
    probe = prediction.fit_probe(kind, x[train], code[train], x[chosen], code[chosen], 2)
    probability = probe.predict(x[test])
    assert probability.shape == (60, 2) and probe.chosen_on == by
    np.testing.assert_allclose(probability.sum(1), 1)
    assert prediction.macro_auc(code[test], probability) > 0.8
    probe = prediction.fit_probe(kind, x[train], signal[train], x[chosen], signal[chosen])
    assert probe.predict(x[test]).shape == (60,)
    assert prediction.pearson_r(signal[test], probe.predict(x[test])) > (0.99 if kind == "linear" else 0.6)


def test_noise_is_regularised_and_signal_is_not():
    x, signal = embeddings(90, dimensions=40)
    noise = np.random.default_rng(5).normal(size=90)
    held = slice(60, None)

    def setting(target):
        return prediction.fit_probe("linear", x[:60], target[:60], x[held], target[held]).setting

    assert setting(noise) >= 100 * setting(signal)


def test_validation_subjects_choose_the_setting_and_are_not_fitted():
    """Validation targets contradict the training targets: the strongest penalty is chosen, with the
    sign of training.
    """
    x, signal = embeddings(100)
    probe = prediction.fit_probe("linear", x[:50], signal[:50], x[50:], -signal[50:])
    assert probe.setting == max(prediction.SETTINGS["linear"])
    assert prediction.pearson_r(signal[50:], probe.predict(x[50:])) > 0.5
    code = (signal > 0).astype(int)
    probe = prediction.fit_probe("linear", x[:50], code[:50], x[50:], 1 - code[50:], 2)
    assert probe.setting == max(prediction.SETTINGS["linear"])
    assert prediction.macro_auc(code[50:], probe.predict(x[50:])) - 0.5 > 0
    assert np.ptp(probe.predict(x[50:])[:, 0]) < 0.05  # the strongest penalty: nearly constant


def test_neighbours_never_exceed_the_training_subjects():
    x, signal = embeddings(4)
    probe = prediction.fit_probe("knn", x, signal, x[:0], signal[:0])
    assert probe.setting <= 3 and np.isfinite(probe.predict(x)).all()


def test_constant_dimensions_are_harmless():
    x, signal = embeddings(40)
    x = np.concatenate([x, np.ones((40, 2))], axis=1)
    for kind in prediction.SETTINGS:
        assert np.isfinite(prediction.fit_probe(kind, x, signal, x[:0], signal[:0]).predict(x)).all()
        assert np.isfinite(
            prediction.fit_probe(kind, np.zeros((40, 3)), signal, x[:0], signal[:0]).predict(x[:, :3])
        ).all()


def test_probes_that_cannot_be_fitted_are_refused():
    x, signal = embeddings(6)
    none = (x[:0], signal[:0])
    with pytest.raises(ValueError, match="choose one of linear, knn"):
        prediction.fit_probe("forest", x, signal, *none)
    with pytest.raises(ValueError, match="of every class, got 1"):
        prediction.fit_probe("linear", x, np.array([0, 0, 0, 0, 0, 1]), *none, classes=2)
    with pytest.raises(ValueError, match="two training subjects, got 1"):
        prediction.fit_probe("linear", x[:1], signal[:1], *none)
    with pytest.raises(ValueError, match="finite"):
        prediction.fit_probe("linear", np.full_like(x, np.nan), signal, *none)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c"), ()])
def test_figure_of_predictions(classes, tmp_path):
    target, probability = random_prediction(classes=len(classes)) if classes else (np.arange(5.0), np.arange(5.0) + 1)
    path = tmp_path / "new" / "predictions.png"
    figures.predictions(path, {"linear": (target, probability), "knn": (target[:1], probability[:1])}, classes, "mL")
    assert path.read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.predictions(path, {})
