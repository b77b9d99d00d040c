import math

import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import redundancy as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

barlow_twins = checks.compiled(objectives.barlow_twins)
vicreg = checks.compiled(objectives.vicreg)

LOSSES = {"barlow_twins": barlow_twins, "vicreg": vicreg}
PADDED = np.array([True, True, False, True, False, True, True, True])
NAMES = {
    "barlow_twins": {"loss_on_diagonal", "loss_off_diagonal", "correlation"},
    "vicreg": {"loss_invariance", "loss_variance", "loss_covariance", "std"},
}


def views(batch=8, width=4, seed=0):
    """Two similar views; columns with different means and scales, on both sides of
    VICReg's hinge.
    """
    rng = np.random.default_rng(seed)
    common, *noise = rng.normal(size=(3, batch, width))
    scale, mean = np.array([0.3, 0.6, 1.5, 2.5] * width)[:width], np.array([1.0, -2.0, 0.0, 0.5] * width)[:width]
    return tuple((mean + scale * (common + 0.5 * n)).astype(np.float32) for n in noise)


def kept(x, valid):
    return [list(row) for i, row in enumerate(x) if valid is None or valid[i]]


def columns(x, valid):
    return [list(column) for column in zip(*kept(x, valid), strict=True)]


def reference_covariance(a, b, ddof):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True)) / (len(a) - ddof)


def reference_barlow_twins(first, second, valid=None, redundancy_weight=5e-3):
    first, second, loss = columns(first, valid), columns(second, valid), 0.0
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            spread = math.sqrt(reference_covariance(a, a, 0) * reference_covariance(b, b, 0))
            c = reference_covariance(a, b, 0) / spread
            loss += (1 - c) ** 2 if i == j else redundancy_weight * c**2
    return loss


def reference_vicreg(first, second, valid=None, invariance=25.0, variance=25.0, covariance=1.0):
    s = [
        (u - v) ** 2
        for a, b in zip(kept(first, valid), kept(second, valid), strict=True)
        for u, v in zip(a, b, strict=True)
    ]
    loss = invariance * sum(s) / len(s)
    for view in (columns(first, valid), columns(second, valid)):
        for i, a in enumerate(view):
            loss += variance * max(0, 1 - math.sqrt(reference_covariance(a, a, 1) + 1e-4)) / len(view)
            loss += (
                covariance * sum(reference_covariance(a, b, 1) ** 2 for j, b in enumerate(view) if j != i) / len(view)
            )
    return loss


def case(name, loss, reference, padded, **weights):
    first, second = (np.where(PADDED[:, None], x, np.nan) if padded else x for x in views())
    return checks.Case(
        name + "_padded" * padded,
        lambda **arrays: loss(**arrays, **weights)[0],
        lambda **arrays: reference(**arrays, **weights),
        {"first": first, "second": second},
        {"valid": PADDED} if padded else {},
    )


CASES = [
    case("barlow_twins", barlow_twins, reference_barlow_twins, padded=False),
    case("barlow_twins", barlow_twins, reference_barlow_twins, padded=True),
    case("barlow_twins_off_diagonal", barlow_twins, reference_barlow_twins, padded=True, redundancy_weight=2.0),
    case("vicreg", vicreg, reference_vicreg, padded=False),
    case("vicreg", vicreg, reference_vicreg, padded=True),
    case("vicreg_invariance", vicreg, reference_vicreg, padded=True, invariance=1.0, variance=0.0, covariance=0.0),
    case("vicreg_variance", vicreg, reference_vicreg, padded=True, invariance=0.0, variance=2.0, covariance=0.0),
    case("vicreg_covariance", vicreg, reference_vicreg, padded=True, invariance=0.0, variance=0.0, covariance=3.0),
]


def test_barlow_twins_by_hand():
    # With two examples every correlation is 1 or -1: only the last column of the second view
    # decreases.
    first, second = jnp.array([[0.0, 5.0], [1.0, 7.0]]), jnp.array([[-3.0, 1.0], [3.0, 0.0]])
    loss, metrics = barlow_twins(first, second, 0.25)
    assert metrics["loss_on_diagonal"] == pytest.approx(4, rel=1e-5)  # (1 - 1)^2 + (1 + 1)^2
    assert metrics["loss_off_diagonal"] == pytest.approx(2, rel=1e-5)
    assert loss == pytest.approx(4.5, rel=1e-5)
    assert metrics["correlation"] == pytest.approx(0, abs=1e-6)


def test_barlow_twins_is_zero_for_equal_views_of_uncorrelated_columns():
    x = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert barlow_twins(3 * x + 1, 0.2 * x - 5)[0] == pytest.approx(0, abs=1e-9)
    assert barlow_twins(x, x[:, ::-1], 0.5)[0] == pytest.approx(2 + 0.5 * 2, rel=1e-6)


def test_barlow_twins_ignores_the_scale_of_a_column():
    first, second = views()
    scale = np.array([1e-4, 1.0, 1e4, 7.0], np.float32)
    assert barlow_twins(first * scale, second / scale)[0] == pytest.approx(
        float(barlow_twins(first, second)[0]), rel=1e-4
    )


def test_barlow_twins_ignores_the_mean_of_a_column():
    """Also where the mean is a thousand standard deviations."""
    first, second = views()
    expected = barlow_twins(first, second)[0]
    np.testing.assert_allclose(barlow_twins(1 + 1e-3 * first, 1 + 1e-3 * second)[0], expected, rtol=2e-3)


def test_vicreg_by_hand():
    # Two examples at distance 2 along the diagonal: unbiased variances 2, covariance 2.
    first = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    _, metrics = vicreg(first, first)
    assert metrics["loss_invariance"] == 0 and metrics["loss_variance"] == 0
    assert metrics["loss_covariance"] == pytest.approx(2 * (4 + 4) / 2, rel=1e-6)
    assert metrics["std"] == pytest.approx(math.sqrt(2 + 1e-4), rel=1e-6)
    # A second view scaled by 0.1: variances 0.02 in the second view; squared distances 2 * 0.81
    # each.
    loss, metrics = vicreg(first, 0.1 * first, 1.0, 10.0, 100.0)
    assert metrics["loss_invariance"] == pytest.approx(0.81, rel=1e-5)
    assert metrics["loss_variance"] == pytest.approx(1 - math.sqrt(0.0201), rel=1e-5)
    assert metrics["loss_covariance"] == pytest.approx(4 + 0.02**2, rel=1e-5)
    assert loss == pytest.approx(0.81 + 10 * (1 - math.sqrt(0.0201)) + 100 * 4.0004, rel=1e-5)


def test_a_vicreg_step_brings_views_together_and_separates_examples():
    first, second = jnp.array([[0.2], [-0.1]]), jnp.array([[0.1], [-0.3]])

    def gradient(**weights):
        return np.asarray(gradient_of(lambda a: vicreg(a, second, covariance=0.0, **weights)[0])(first)).ravel()

    invariance = gradient(invariance=1.0, variance=0.0)
    assert invariance[0] > 0 and invariance[1] > 0  # a step decreases both, towards the second view
    variance = gradient(invariance=0.0, variance=1.0)
    assert variance[0] < 0 < variance[1]  # a step increases the larger and decreases the smaller


def test_a_barlow_twins_step_brings_views_together():
    first, second = views()
    gradient = gradient_of(lambda a: barlow_twins(a, second)[0])
    moved = first
    for _ in range(20):
        moved = moved - 0.05 * np.asarray(gradient(moved))
    before, after = barlow_twins(first, second)[1], barlow_twins(moved, second)[1]
    assert after["correlation"] > before["correlation"] + 0.01


@pytest.mark.parametrize("name", LOSSES)
def test_padding_has_no_influence_and_no_gradient(name):
    first, second = views()
    expected, expected_metrics = LOSSES[name](first[PADDED], second[PADDED])
    with_nan = (
        jnp.asarray(np.where(PADDED[:, None], first, np.nan)),
        jnp.asarray(np.where(PADDED[:, None], second, 1e9)),
    )
    (loss, metrics), grads = value_and_gradient_of(
        lambda views: LOSSES[name](*views, valid=jnp.asarray(PADDED)), has_aux=True
    )(with_nan)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert metrics.keys() == expected_metrics.keys() == NAMES[name]
    for key, value in expected_metrics.items():
        assert metrics[key] == pytest.approx(float(value), rel=1e-5), key
    for grad in grads:
        assert np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[~PADDED] == 0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid_is_zero_with_zero_gradient(name):
    nan = jnp.full((8, 4), jnp.nan)
    (loss, metrics), grad = value_and_gradient_of(
        lambda a: LOSSES[name](a, nan, valid=jnp.zeros(8, bool)), has_aux=True
    )(nan)
    assert loss == 0 and np.all(np.asarray(grad) == 0)
    assert all(value == 0 for value in metrics.values())


def test_one_valid_row_gives_the_invariance_term_only():
    first, second = (jnp.asarray(x) for x in views())
    one = jnp.arange(8) == 3
    (loss, metrics), grad = value_and_gradient_of(lambda a: barlow_twins(a, second, valid=one), has_aux=True)(first)
    assert loss == 0 and np.all(np.asarray(grad) == 0) and all(value == 0 for value in metrics.values())
    (loss, metrics), grad = value_and_gradient_of(lambda a: vicreg(a, second, valid=one), has_aux=True)(first)
    assert loss == pytest.approx(25 * float(jnp.mean((first[3] - second[3]) ** 2)), rel=1e-6)
    assert metrics["loss_variance"] == 0 and metrics["loss_covariance"] == 0 and metrics["std"] == 0
    np.testing.assert_allclose(grad, jnp.where(one[:, None], 25 * (first - second) / 2, 0), rtol=1e-5)


@pytest.mark.parametrize("name, collapsed", [("barlow_twins", 3), ("vicreg", 25 * 2 * (1 - 0.01))])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_collapse_has_a_high_finite_loss(name, collapsed, value):
    x = jnp.full((7, 3), value)
    loss, grad = value_and_gradient_of(lambda a: LOSSES[name](a, x)[0])(x)
    assert loss == pytest.approx(collapsed, rel=1e-3)
    assert np.all(np.isfinite(grad)) and np.abs(grad).max() < 1


def test_a_constant_column_has_correlation_zero():
    first, second = views()
    first[:, 2] = 0.1
    (loss, metrics), grad = value_and_gradient_of(lambda a: barlow_twins(a, second), has_aux=True)(jnp.asarray(first))
    rest = np.array([0, 1, 3])
    _, without_column = barlow_twins(first[:, rest], second[:, rest])
    assert metrics["loss_on_diagonal"] == pytest.approx(float(without_column["loss_on_diagonal"]) + 1, rel=1e-5)
    assert np.isfinite(loss) and np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[:, 2] == 0)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    first, second = (jnp.asarray(x, jnp.bfloat16) for x in views())
    loss, metrics = LOSSES[name](first, second)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in (loss, *metrics.values()))
    wide, _ = LOSSES[name](first.astype(jnp.float32), second.astype(jnp.float32))
    assert loss == pytest.approx(float(wide), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_metrics_carry_no_gradient(name):
    first, second = views()
    grad = gradient_of(lambda a: sum(LOSSES[name](a, second)[1].values()))(jnp.asarray(first))
    assert np.all(np.asarray(grad) == 0)


def test_bad_arguments():
    first, second = views()
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="views"):
            loss(first, second[:, :2])
        with pytest.raises(ValueError, match="views"):
            loss(first[0], second[0])
        with pytest.raises(ValueError, match="at least 2 rows"):
            loss(first[:1], second[:1])
        with pytest.raises(ValueError, match="valid"):
            loss(first, second, valid=jnp.ones(3, bool))
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="redundancy_weight"):
            barlow_twins(first, second, bad)
        for name in ("invariance", "variance", "covariance"):
            with pytest.raises(ValueError, match=name):
                vicreg(first, second, **{name: bad})
