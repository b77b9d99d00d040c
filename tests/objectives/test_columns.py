import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import columns as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

reconstruction = checks.compiled(objectives.reconstruction)
regression = checks.compiled(objectives.regression)

VALID = np.array([True, True, False, True, True, True, False, True])
CARDINALITIES = (1, 3, 1, 2, 1, 3)
COLUMNS = (4, 0, 2)


def table(batch=8, seed=0):
    """values, missing, masked [batch,6]; missing values are NaN."""
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=batch) if c == 1 else rng.integers(0, c, batch) for c in CARDINALITIES]
    missing = rng.random((batch, 6)) < np.array([0.1, 0.2, 0.6, 0.2, 0.3, 0.1])
    values = np.where(missing, np.nan, np.stack(columns, 1)).astype(np.float32)
    return values, missing, rng.random((batch, 6)) < 0.6


def predictions(width, batch=8, seed=1):
    return (1.5 * np.random.default_rng(seed).normal(size=(batch, width))).astype(np.float32)


def reference_regression(prediction, values, missing, valid=None, huber_delta=None, columns=COLUMNS):
    """(loss, r2), column by column."""
    costs, squares, bases = [], [], []
    for c, column in enumerate(columns):
        rows = [b for b in range(len(values)) if not missing[b, column] and (valid is None or valid[b])]
        if not rows:
            continue
        cost = square = base = 0.0
        for b in rows:
            e = abs(prediction[b, c] - values[b, column])
            square += e * e / len(rows)
            cost += (e * e if huber_delta is None or e <= huber_delta else 2 * huber_delta * e - huber_delta**2) / len(
                rows
            )
            base += values[b, column] ** 2 / len(rows)
        costs.append(cost)
        squares.append(square)
        bases.append(base)
    return sum(costs) / len(costs), 1 - sum(squares) / sum(bases)


def reference_reconstruction(prediction, values, missing, masked, valid=None, cardinalities=CARDINALITIES):
    """(loss, continuous, categorical, accuracy), entry by entry."""
    continuous, categorical, hits = [], [], []
    for b in range(len(values)):
        start = 0
        for f, k in enumerate(cardinalities):
            out = prediction[b, start : start + k]
            start += k
            v = values[b, f]
            if missing[b, f] or not masked[b, f] or (valid is not None and not valid[b]):
                continue
            if k == 1:
                continuous.append((out[0] - v) ** 2)
            elif v in range(k):
                categorical.append(-math.log(math.exp(out[int(v)]) / sum(math.exp(o) for o in out)))
                hits.append(float(np.argmax(out) == v))
    both = continuous + categorical
    return tuple(sum(x) / max(len(x), 1) for x in (both, continuous, categorical, hits))


def regression_case(name, valid=None, huber_delta=None):
    values, missing, _ = table()
    prediction = predictions(len(COLUMNS))
    fixed = {"values": values, "missing": missing}
    if valid is not None:
        prediction[~valid] = values[~valid] = np.nan
        fixed["valid"] = valid
    return checks.Case(
        name,
        jax.jit(lambda **arrays: regression(**arrays, columns=COLUMNS, huber_delta=huber_delta)[0]),
        lambda **arrays: reference_regression(**arrays, huber_delta=huber_delta)[0],
        learned={"prediction": prediction},
        fixed=fixed,
    )


def reconstruction_case(name, valid=None, unknown=False):
    values, missing, masked = table()
    prediction = predictions(sum(CARDINALITIES))
    if unknown:
        values[[0, 1, 4], [1, 5, 3]] = [3, -1, 0.5]
        missing[[0, 1, 4], [1, 5, 3]] = False
        masked[[0, 1, 4], [1, 5, 3]] = True
    fixed = {"values": values, "missing": missing, "masked": masked}
    if valid is not None:
        prediction[~valid] = values[~valid] = np.nan
        fixed["valid"] = valid
    return checks.Case(
        name,
        jax.jit(lambda **arrays: reconstruction(**arrays, cardinalities=CARDINALITIES)[0]),
        lambda **arrays: reference_reconstruction(**arrays)[0],
        learned={"prediction": prediction},
        fixed=fixed,
    )


CASES = [
    regression_case("regression: squared"),
    regression_case("regression: Huber", huber_delta=0.8),
    regression_case("regression: padding", valid=VALID),
    reconstruction_case("columns: masked fields"),
    reconstruction_case("columns: invalid codes", unknown=True),
    reconstruction_case("columns: padding", valid=VALID),
]


@pytest.mark.parametrize("valid", [None, VALID])
@pytest.mark.parametrize("huber_delta", [None, 0.8])
def test_regression_metrics_equal_the_reference(valid, huber_delta):
    values, missing, _ = table()
    prediction = predictions(len(COLUMNS))
    mse, r2 = reference_regression(prediction, values, missing, valid)
    loss, metrics = regression(prediction, values, missing, COLUMNS, valid, huber_delta)
    assert metrics["mse"] == pytest.approx(mse, rel=1e-5)
    assert metrics["r2"] == pytest.approx(r2, rel=1e-5)
    assert (loss == metrics["mse"]) == (huber_delta is None)
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())


def test_columns_with_missing_values_have_the_same_weight():
    # Errors of 1 in the first column (four rows), of 3 in the second (one row): (1 + 9) / 2.
    values, missing = jnp.zeros((4, 2)), jnp.array([[0, 0], [0, 1], [0, 1], [0, 1]], bool)
    prediction = jnp.tile(jnp.array([1.0, 3.0]), (4, 1))
    assert regression(prediction, values, missing, (0, 1))[0] == 5
    missing = missing.at[0, 1].set(True)  # the second column has no known value: it is left out of the mean
    assert regression(prediction, values, missing, (0, 1))[0] == 1


def test_regression_of_two_rows_by_hand():
    values, missing = jnp.array([[1.0], [-2.0]]), jnp.zeros((2, 1), bool)
    prediction = jnp.array([[1.5], [1.0]])
    (loss, metrics), grad = value_and_gradient_of(
        lambda p: regression(p, values, missing, (0,), huber_delta=1.0), has_aux=True
    )(prediction)
    assert loss == pytest.approx((0.25 + (2 * 3 - 1)) / 2)
    assert metrics["r2"] == pytest.approx(1 - (0.25 + 9) / (1 + 4))
    np.testing.assert_allclose(grad, [[0.5], [1.0]])  # towards the values; the slope is bounded beyond huber_delta


def test_r2_of_perfect_and_constant_predictions():
    values, missing, _ = table()
    columns = list(COLUMNS)
    assert regression(values[:, columns], values, missing, COLUMNS)[1]["r2"] == 1
    assert regression(np.zeros((8, 3), np.float32), values, missing, COLUMNS)[1]["r2"] == 0
    small = values / 8  # their squares are below 1
    assert regression(small[:, columns] / 2, small, missing, COLUMNS)[1]["r2"] == pytest.approx(0.75, rel=1e-5)
    assert regression(np.zeros((8, 3), np.float32), 0 * values, missing, COLUMNS)[1]["r2"] == 0


def test_regression_ignores_missing_values():
    values, missing, _ = table()
    prediction = predictions(len(COLUMNS))
    expected = regression(prediction, np.where(missing, 1e9, values), missing, COLUMNS)
    assert regression(prediction, values, missing, COLUMNS) == expected
    assert regression(prediction, values, np.zeros_like(missing), COLUMNS) == expected  # NaN counts as missing


@pytest.mark.parametrize("valid", [None, VALID])
def test_reconstruction_metrics_equal_the_reference(valid):
    values, missing, masked = table()
    prediction = predictions(sum(CARDINALITIES))
    expected = reference_reconstruction(prediction, values, missing, masked, valid)
    loss, metrics = reconstruction(prediction, values, missing, masked, CARDINALITIES, valid)
    for value, reference in zip(
        (loss, *(metrics[n] for n in ("continuous", "categorical", "accuracy"))), expected, strict=True
    ):
        assert value == pytest.approx(reference, rel=1e-5)
        assert value.shape == () and value.dtype == jnp.float32
    assert 0 < expected[3] < 1


def test_reconstruction_of_two_rows_by_hand():
    # A continuous error of 2, a class of probability 3/4 and one of 1/10: each of the three counts
    # once.
    values, none_masked = jnp.array([[1.0, 1], [5.0, 2]]), jnp.zeros((2, 2), bool)
    masked = jnp.array([[True, True], [False, True]])
    prediction = jnp.array([[3.0, 0, math.log(6), 0], [9.0, math.log(8), 0, 0]])
    run = jax.jit(lambda p: reconstruction(p, values, none_masked, masked, (1, 3)))
    (loss, metrics), grad = value_and_gradient_of(run, has_aux=True)(prediction)
    cross_entropies = -math.log(6 / 8), -math.log(1 / 10)
    assert loss == pytest.approx((4 + sum(cross_entropies)) / 3, rel=1e-6)
    assert metrics["continuous"] == 4
    assert metrics["categorical"] == pytest.approx(sum(cross_entropies) / 2, rel=1e-6)
    assert metrics["accuracy"] == 0.5
    expected = np.array([[4, 1 / 8, -2 / 8, 1 / 8], [0, 8 / 10, 1 / 10, -9 / 10]]) / 3
    np.testing.assert_allclose(grad, expected, rtol=1e-5)  # a step lowers the wrong logits and raises the correct one


def test_reconstruction_uses_masked_and_known_entries_only():
    values, missing, masked = table()
    prediction = predictions(sum(CARDINALITIES))
    run = jax.jit(lambda p, v: reconstruction(p, v, missing, masked, CARDINALITIES))
    expected = run(prediction, values)
    counted = masked & ~missing
    with_nan = np.where(np.repeat(counted, CARDINALITIES, axis=1), prediction, np.nan)
    (loss, metrics), grad = value_and_gradient_of(run, has_aux=True)(
        jnp.asarray(with_nan), np.where(counted, values, 1e9)
    )
    assert (loss, metrics) == expected
    np.testing.assert_array_equal(np.asarray(grad) != 0, np.repeat(counted, CARDINALITIES, axis=1))


@pytest.mark.parametrize("code", [-1, 3, 0.5, 1e9, np.inf])
def test_an_invalid_code_counts_as_missing(code):
    values, missing, masked = table()
    prediction = predictions(sum(CARDINALITIES))
    masked[0, 1], missing[0, 1], values[0, 1] = True, False, code
    with_nan = reconstruction(prediction, values, missing, masked, CARDINALITIES)
    missing[0, 1] = True
    assert with_nan == reconstruction(prediction, values, missing, masked, CARDINALITIES)


def test_values_get_no_gradient():
    values, missing, masked = table()
    few, many = predictions(len(COLUMNS)), predictions(sum(CARDINALITIES))
    for loss in (
        lambda v: regression(few, v, missing, COLUMNS)[0],
        lambda v: reconstruction(many, v, missing, masked, CARDINALITIES)[0],
    ):
        assert np.all(np.asarray(gradient_of(loss)(jnp.asarray(values))) == 0)


def test_nothing_known_is_zero_with_zero_gradient():
    values, missing, masked = table()
    few, many = predictions(len(COLUMNS)), predictions(sum(CARDINALITIES))
    none_valid, none_masked = np.zeros(8, bool), np.zeros_like(missing)
    for loss, prediction in (
        (lambda p: regression(p, values, missing, COLUMNS, none_valid, 1.0), few),
        (lambda p: regression(p, values, ~none_masked, COLUMNS), few),
        (lambda p: reconstruction(p, values, missing, masked, CARDINALITIES, none_valid), many),
        (lambda p: reconstruction(p, values, missing, none_masked, CARDINALITIES), many),
        (lambda p: reconstruction(p, values, ~none_masked, masked, CARDINALITIES), many),
    ):
        (value, metrics), grad = value_and_gradient_of(loss, has_aux=True)(jnp.asarray(prediction))
        assert value == 0 and np.all(np.asarray(grad) == 0)
        assert all(m == 0 for m in metrics.values())


def test_one_row_one_kind_and_extreme_logits_are_finite():
    known, masked = jnp.zeros((1, 1), bool), jnp.ones((1, 1), bool)
    assert regression(jnp.array([[1.0]]), jnp.array([[3.0]]), known, (0,))[0] == 4
    loss, metrics = reconstruction(jnp.array([[1.0]]), jnp.array([[3.0]]), known, masked, (1,))
    assert loss == metrics["continuous"] == 4 and metrics["categorical"] == metrics["accuracy"] == 0
    loss, metrics = reconstruction(jnp.array([[300.0, -300.0]]), jnp.array([[1.0]]), known, masked, (2,))
    assert loss == metrics["categorical"] == 600 and metrics["continuous"] == 0


def test_low_precision_is_computed_in_float32():
    values, missing, masked = table()
    few, many = (jnp.asarray(predictions(n), jnp.bfloat16) for n in (len(COLUMNS), sum(CARDINALITIES)))
    wide = regression(few.astype(jnp.float32), values, missing, COLUMNS)
    assert regression(few, values, missing, COLUMNS) == wide and wide[0].dtype == jnp.float32
    wide = reconstruction(many.astype(jnp.float32), values, missing, masked, CARDINALITIES)
    assert reconstruction(many, values, missing, masked, CARDINALITIES) == wide and wide[0].dtype == jnp.float32


def test_bad_arguments():
    values, missing, masked = table()
    good = dict(prediction=predictions(3), values=values, missing=missing, columns=COLUMNS)
    for message, arguments in (
        ("missing", dict(missing=missing[:, 1:])),
        ("columns", dict(columns=())),
        ("columns", dict(columns=(0, 2, 0))),
        ("columns", dict(columns=(0, 2, -1))),
        ("columns", dict(columns=(0, 2, 6))),
        ("prediction", dict(prediction=predictions(4))),
        ("prediction", dict(prediction=predictions(3, batch=7))),
        ("huber_delta", dict(huber_delta=0.0)),
        ("huber_delta", dict(huber_delta=math.inf)),
        ("valid", dict(valid=jnp.ones(7, bool))),
    ):
        with pytest.raises(ValueError, match=message):
            regression(**good | arguments)
    good = dict(prediction=predictions(11), values=values, missing=missing, masked=masked, cardinalities=CARDINALITIES)
    for message, arguments in (
        ("missing", dict(missing=missing[1:])),
        ("masked", dict(masked=masked[:, 1:])),
        ("cardinalities", dict(cardinalities=CARDINALITIES[1:])),
        ("cardinalities", dict(cardinalities=(1, 3, 1, 2, 0, 4))),
        ("prediction", dict(prediction=predictions(12))),
        ("valid", dict(valid=jnp.ones(7, bool))),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruction(**good | arguments)
