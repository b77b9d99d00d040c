import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import targets as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of

targets = checks.compiled_functions(objectives)


def reference_table_similarity(values, missing, cardinalities, continuous_weight):
    """Pair by pair and column by column."""
    n = len(values)
    similarity = np.eye(n)
    for i in range(n):
        for j in range(n):
            squares, equals = [], []
            for f, cardinality in enumerate(cardinalities):
                if missing[i, f] or missing[j, f]:
                    continue
                if cardinality == 1:
                    squares.append((float(values[i, f]) - float(values[j, f])) ** 2)
                else:
                    equals.append(float(values[i, f] == values[j, f]))
            parts = []
            if squares:
                parts.append((continuous_weight, np.exp(-sum(squares) / len(squares))))
            if equals:
                parts.append((1 - continuous_weight, sum(equals) / len(equals)))
            weight = sum(w for w, _ in parts)
            if i != j:
                similarity[i, j] = sum(w * s for w, s in parts) / weight if weight else 0.0
    return similarity


CARDINALITIES = (1, 3, 1, 2, 1)


def table(batch=8, seed=0):
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=batch) if c == 1 else rng.integers(0, c, batch) for c in CARDINALITIES]
    missing = rng.random((batch, len(CARDINALITIES))) < 0.3
    return np.stack(columns, 1).astype(np.float32), missing


def test_distinct():
    np.testing.assert_array_equal(
        targets.distinct(jnp.array([4, 7, 4])), [[True, True, False], [True, True, True], [False, True, True]]
    )


def test_same_label():
    label = jnp.array([2, -1, 2, 0, -1, 0])
    expected = np.eye(6, dtype=bool)
    expected[0, 2] = expected[2, 0] = expected[3, 5] = expected[5, 3] = True  # the two unknown labels match no other
    np.testing.assert_array_equal(targets.same_label(label), expected)
    expected[3, 5] = expected[5, 3] = False
    np.testing.assert_array_equal(targets.same_label(label, only=2), expected)


def test_by_partition():
    position = jnp.array([0.0, 0.24, 0.26, 0.99, 1.0, np.nan])
    part = [0, 0, 1, 3, 3, 9]
    expected = [[a == b for b in part] for a in part]
    np.testing.assert_array_equal(targets.by_partition(position, 4), expected)
    assert targets.by_partition(position[:5], 1).all()


@pytest.mark.parametrize("continuous_weight", [0.0, 0.3, 1.0])
def test_table_similarity_equals_the_reference(continuous_weight):
    values, missing = table()
    missing[3] = True  # no known value
    missing[4] = np.array(CARDINALITIES) == 1  # only categorical values known
    missing[5] = np.array(CARDINALITIES) != 1  # only continuous values known
    result = np.asarray(targets.table_similarity(values, missing, CARDINALITIES, continuous_weight))
    np.testing.assert_allclose(
        result, reference_table_similarity(values, missing, CARDINALITIES, continuous_weight), atol=1e-6
    )
    np.testing.assert_array_equal(result, result.T)
    assert result[3, 3] == 1 and result[3, [0, 1, 2, 4, 5, 6, 7]].max() == 0
    assert result[4, 5] == 0  # they share no column
    assert result.dtype == np.float32 and result.min() >= 0 and result.max() == 1


def test_table_similarity_by_hand():
    # Differences of 1 and 3 in the continuous columns: a mean square of 5. One of two codes equal.
    values = jnp.array([[0.0, 2, 1, 1], [1.0, 2, 4, 0]])
    result = targets.table_similarity(values, jnp.zeros((2, 4), bool), (1, 3, 1, 2), 0.25)
    assert result[0, 1] == pytest.approx(0.25 * np.exp(-5) + 0.75 * 0.5, rel=1e-6)


def test_table_similarity_ignores_missing_values():
    values, missing = table()
    expected = targets.table_similarity(values, missing, CARDINALITIES, 0.5)
    with_nan = np.where(missing, np.nan, values)
    np.testing.assert_array_equal(targets.table_similarity(with_nan, missing, CARDINALITIES, 0.5), expected)
    np.testing.assert_array_equal(
        targets.table_similarity(with_nan, np.zeros_like(missing), CARDINALITIES, 0.5), expected
    )


def test_nearest_by_hand():
    similarity = jnp.array(
        [
            [1.0, 0.9, 0.9, 0.95],  # a tie for the second place: the lower index is taken
            [0.9, 1.0, 0.5, 0.79],  # the second nearest does not reach the threshold
            [np.nan, 0.1, 1.0, 0.2],  # none reaches it
            [0.8, 0.9, 0.95, 0.0],  # the row itself, although its own entry is 0
        ]
    )
    expected = [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]
    np.testing.assert_array_equal(targets.nearest(similarity, k=2, threshold=0.8), np.array(expected, bool))
    all_above = targets.nearest(similarity, k=9, threshold=0.8)
    np.testing.assert_array_equal(all_above, np.eye(4, dtype=bool) | (np.asarray(similarity) >= np.float32(0.8)))


def test_soft_by_hand():
    similarity = jnp.log(jnp.array([[4.0, 1.0], [1.0, 3.0]]))
    np.testing.assert_allclose(targets.soft(similarity, 1.0), [[1, 0.25], [0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(targets.soft(similarity, 0.5), [[1, 1 / 16], [1 / 16, 9 / 16]], rtol=1e-6)
    np.testing.assert_array_equal(targets.soft(jnp.array([[1.0, np.nan], [np.nan, np.nan]]), 0.1), [[1, 0], [0, 0]])
    assert np.all(np.isfinite(targets.soft(jnp.full((2, 2), np.nan), 0.1)))


def test_soft_stays_symmetric():
    values, missing = table()
    weights = np.asarray(targets.soft(targets.table_similarity(values, missing, CARDINALITIES, 0.5), 0.2))
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(np.diagonal(weights), 1)


def test_targets_carry_no_gradient():
    values, missing = table()
    grad = gradient_of(lambda v: targets.table_similarity(v, missing, CARDINALITIES, 0.5).sum())(jnp.asarray(values))
    assert np.all(np.asarray(grad) == 0)
    grad = gradient_of(lambda s: targets.soft(s, 0.5).sum())(jnp.arange(9.0).reshape(3, 3))
    assert np.all(np.asarray(grad) == 0)


def test_one_row():
    one = np.ones((1, 1), bool)
    for result in (
        targets.distinct(jnp.array([5])),
        targets.same_label(jnp.array([-1])),
        targets.by_partition(jnp.array([0.3]), 4),
        targets.nearest(jnp.array([[np.nan]]), 1, 0.5),
        targets.soft(jnp.array([[0.3]]), 0.1),
        targets.table_similarity(jnp.zeros((1, 1)), jnp.ones((1, 1), bool), (1,), 0.5),
    ):
        np.testing.assert_array_equal(result, one)


def test_bad_arguments():
    values, missing = table()
    with pytest.raises(ValueError, match="partitions"):
        targets.by_partition(jnp.zeros(3), 0)
    with pytest.raises(ValueError, match="cardinalities"):
        targets.table_similarity(values, missing, CARDINALITIES[:4], 0.5)
    with pytest.raises(ValueError, match="continuous_weight"):
        targets.table_similarity(values, missing, CARDINALITIES, 1.5)
    with pytest.raises(ValueError, match="k must"):
        targets.nearest(jnp.eye(3), 0, 0.5)
    with pytest.raises(ValueError, match="similarity"):
        targets.nearest(jnp.zeros((3, 2)), 1, 0.5)
    with pytest.raises(ValueError, match="similarity"):
        targets.soft(jnp.zeros(3), 0.1)
    with pytest.raises(ValueError, match="temperature"):
        targets.soft(jnp.eye(3), 0.0)
