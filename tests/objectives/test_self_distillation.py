import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import self_distillation as objectives
from morphojax.objectives.self_distillation import momentum, moving_average
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

byol = checks.compiled(objectives.byol)
simsiam = checks.compiled(objectives.simsiam)
spread = checks.compiled(objectives.spread)

LOSSES = {"byol": byol, "simsiam": simsiam}
PADDED = np.array([True, True, False, True, False, True, True, True])


def views(batch=8, width=4, seed=0):
    """Predictions and targets of two views, by the names of the arguments."""
    rng = np.random.default_rng(seed)
    names = ("prediction_first", "prediction_second", "target_first", "target_second")
    return {name: rng.normal(size=(batch, width)).astype(np.float32) for name in names}


def cosine(a, b):
    dot = sum(u * v for u, v in zip(a, b, strict=True))
    return dot / math.sqrt(sum(u * u for u in a)) / math.sqrt(sum(v * v for v in b))


def rows(valid, batch):
    return [i for i in range(batch) if valid is None or valid[i]]


def reference_byol(prediction_first, prediction_second, target_first, target_second, valid=None):
    kept, total = rows(valid, len(prediction_first)), 0.0
    for i in kept:
        total += 2 - 2 * cosine(prediction_first[i], target_second[i])
        total += 2 - 2 * cosine(prediction_second[i], target_first[i])
    return total / len(kept)


def reference_simsiam(prediction_first, prediction_second, target_first, target_second, valid=None):
    kept, total = rows(valid, len(prediction_first)), 0.0
    for i in kept:
        total -= cosine(prediction_first[i], target_second[i]) / 2
        total -= cosine(prediction_second[i], target_first[i]) / 2
    return total / len(kept)


def case(name, reference, padded):
    arrays = {k: np.where(PADDED[:, None], v, np.nan) if padded else v for k, v in views().items()}
    learned = {k: v for k, v in arrays.items() if k.startswith("prediction")}
    fixed = {k: v for k, v in arrays.items() if k.startswith("target")} | ({"valid": PADDED} if padded else {})
    return checks.Case(name + "_padded" * padded, lambda **a: LOSSES[name](**a)[0], reference, learned, fixed)


CASES = [
    case(*reference, padded)
    for reference in (("byol", reference_byol), ("simsiam", reference_simsiam))
    for padded in (False, True)
]


@pytest.mark.parametrize("name", LOSSES)
def test_targets_get_no_gradient(name):
    arrays = {k: jnp.asarray(v) for k, v in views().items()}
    grad = gradient_of(lambda a: LOSSES[name](**a)[0])(arrays)
    for key, value in grad.items():
        assert np.any(np.asarray(value) != 0) == key.startswith("prediction"), key


def test_predictions_are_compared_with_the_target_of_the_other_view():
    first, second = (np.eye(4, dtype=np.float32)[i : i + 2] for i in (0, 2))
    assert byol(2 * second, 3 * first, first, second)[0] == pytest.approx(0, abs=1e-6)
    assert byol(first, second, first, second)[0] == pytest.approx(4)
    assert byol(-second, -first, first, second)[0] == pytest.approx(8)
    assert simsiam(2 * second, 3 * first, first, second)[0] == pytest.approx(-1)
    assert simsiam(-second, -first, first, second)[0] == pytest.approx(1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_turns_predictions_towards_their_targets(name):
    target = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    start = jnp.array([[1.0, 1.0], [-1.0, 1.0]])

    def loss(prediction):
        return LOSSES[name](prediction, prediction, target, target)[0]

    moved = start - 0.1 * gradient_of(loss)(start)
    before, after = (np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True)) for x in (start, moved))
    assert after[0, 0] > before[0, 0] + 0.01 and after[1, 1] > before[1, 1] + 0.01


def test_byol_and_simsiam_by_hand():
    # Angles of 60 and 180 degrees: (2 - 1) + (2 + 2).
    arrays = [
        jnp.array([x]) for x in ([1.0, 0.0], [0.0, 2.0], [0.0, -1.0], [math.cos(math.pi / 3), math.sin(math.pi / 3)])
    ]
    loss, metrics = byol(*arrays)
    assert loss == pytest.approx(5, rel=1e-6)
    assert metrics["cosine"] == pytest.approx((0.5 - 1) / 2, abs=1e-6)
    assert simsiam(*arrays)[0] == pytest.approx((float(loss) - 4) / 4, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_has_no_influence_and_no_gradient(name):
    arrays = views()
    expected, expected_metrics = LOSSES[name](**{k: v[PADDED] for k, v in arrays.items()})
    with_nan = {k: jnp.asarray(np.where(PADDED[:, None], v, np.nan)) for k, v in arrays.items()}
    (loss, metrics), grad = value_and_gradient_of(lambda a: LOSSES[name](**a, valid=jnp.asarray(PADDED)), has_aux=True)(
        with_nan
    )
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert metrics.keys() == expected_metrics.keys()
    for key, value in expected_metrics.items():
        assert metrics[key] == pytest.approx(float(value), rel=1e-5), key
    for value in grad.values():
        assert np.all(np.isfinite(value)) and np.all(np.asarray(value)[~PADDED] == 0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid_is_zero_with_zero_gradient(name):
    arrays = {k: jnp.full(v.shape, jnp.nan) for k, v in views().items()}
    none = jnp.zeros(8, bool)
    (loss, metrics), grad = value_and_gradient_of(lambda a: LOSSES[name](**a, valid=none), has_aux=True)(arrays)
    assert loss == 0 and all(value == 0 for value in metrics.values())
    assert all(np.all(np.asarray(g) == 0) for g in grad.values())


@pytest.mark.parametrize("name", LOSSES)
def test_zero_embeddings_have_cosine_zero_and_no_gradient(name):
    arrays = {k: jnp.zeros(v.shape) for k, v in views().items()}
    loss, grad = value_and_gradient_of(lambda a: LOSSES[name](**a)[0])(arrays)
    assert loss == {"byol": 4, "simsiam": 0}[name]
    assert all(np.all(np.asarray(g) == 0) for g in grad.values())


def test_one_row_is_enough():
    one = {k: v[:1] for k, v in views().items()}
    assert byol(**one)[0] == pytest.approx(reference_byol(**one), rel=1e-5)
    assert byol(**one)[1]["spread_target"] == 0


def test_half_precision_is_computed_in_float32():
    arrays = {k: jnp.asarray(v, jnp.bfloat16) for k, v in views().items()}
    for name, loss in LOSSES.items():
        value, metrics = loss(**arrays)
        assert all(x.dtype == jnp.float32 and x.shape == () for x in (value, *metrics.values()))
        wide, _ = loss(**{k: v.astype(jnp.float32) for k, v in arrays.items()})
        assert value == pytest.approx(float(wide), rel=1e-6), name


def test_metrics_carry_no_gradient():
    arrays = {k: jnp.asarray(v) for k, v in views().items()}
    grad = gradient_of(lambda a: sum(byol(**a)[1].values()))(arrays)
    assert all(np.all(np.asarray(g) == 0) for g in grad.values())


def test_spread_is_zero_after_collapse():
    arrays = views(batch=512, width=16)
    assert spread(jnp.asarray(arrays["target_first"])) == pytest.approx(1, abs=0.03)
    assert spread(jnp.tile(jnp.array([[0.1, 0.7, -0.3]]), (64, 1))) == pytest.approx(0, abs=1e-6)
    assert spread(3 * jnp.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(math.sqrt(2) / 2)
    same = np.repeat(arrays["target_first"][:1], 8, axis=0)
    _, metrics = byol(**{**views(width=16), "target_first": same, "target_second": same})
    assert metrics["spread_target"] < 1e-5 < 0.5 < metrics["spread_prediction"]


def test_spread_equals_the_reference():
    z = views()["target_first"]
    kept = [row / math.sqrt(sum(v * v for v in row)) for row in z[PADDED].astype(np.float64)]
    stds = []
    for column in range(4):
        values = [row[column] for row in kept]
        mean = sum(values) / len(values)
        stds.append(math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)))
    with_nan = np.where(PADDED[:, None], z, np.nan)
    assert spread(with_nan, PADDED) == pytest.approx(sum(stds) / 4 * math.sqrt(4), rel=1e-5)


def test_momentum_rises_from_its_start_to_one():
    assert momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert momentum(25, 100, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)
    assert momentum(100, 100, 0.996) == 1 and momentum(1000, 100, 0.996) == 1
    traced = jax.jit(lambda step: momentum(step, 100, 0.9))(jnp.int32(25))
    assert traced == pytest.approx(float(momentum(25, 100, 0.9))) and traced.dtype == jnp.float32


def test_moving_average_by_hand():
    old = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array(4.0),)}
    new = {"a": jnp.array([3.0, 2.0]), "b": (jnp.array(0.0),)}
    result = moving_average(old, new, 0.75)
    np.testing.assert_allclose(result["a"], [1.5, 2])
    np.testing.assert_allclose(result["b"][0], 3)
    np.testing.assert_array_equal(moving_average(old, new, 1.0)["a"], old["a"])
    np.testing.assert_array_equal(moving_average(old, new, 0.0)["a"], new["a"])


def test_moving_average_keeps_dtypes():
    old, new = {"a": jnp.ones(2, jnp.bfloat16)}, {"a": jnp.zeros(2, jnp.bfloat16)}
    assert jax.jit(moving_average)(old, new, momentum(0, 10, 0.5))["a"].dtype == jnp.bfloat16


def test_bad_arguments():
    arrays = views()
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="must all be"):
            loss(**{**arrays, "target_first": arrays["target_first"][:, :2]})
        with pytest.raises(ValueError, match=r"\[B, P\]"):
            loss(**{k: v[0] for k, v in arrays.items()})
        with pytest.raises(ValueError, match="valid"):
            loss(**arrays, valid=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="steps"):
        momentum(0, 0, 0.9)
    for start in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="start"):
            momentum(0, 10, start)
    with pytest.raises(ValueError, match="shape"):
        moving_average({"a": jnp.ones(3)}, {"a": jnp.ones(1)}, 0.5)
    with pytest.raises(ValueError):
        moving_average({"a": jnp.ones(3)}, {"b": jnp.ones(3)}, 0.5)
