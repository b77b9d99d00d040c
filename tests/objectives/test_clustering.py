import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import clustering as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

sinkhorn = objectives.sinkhorn  # not compiled as a whole: many unrolled iterations compile for seconds
swav = checks.compiled(objectives.swav)

PADDED = np.array([True, True, False, True, False, True, True, True])
NONE = np.zeros(8, bool)


def scores(batch=8, prototypes=3, seed=0):
    """Scores of two views in [-1, 1]; most rows prefer the first prototype."""
    rng = np.random.default_rng(seed)
    liked = np.linspace(0.4, -0.2, prototypes)
    first, second = (np.clip(liked + 0.4 * rng.normal(size=(batch, prototypes)), -1, 1) for _ in range(2))
    return first.astype(np.float32), second.astype(np.float32)


def pad_with_nan(x):
    return np.where(PADDED[:, None], x, np.nan)


def reference_sinkhorn(scores, epsilon=0.05, iterations=3, valid=None):
    """The paper's appendix A: Q is [K, N] and sums to 1; its rows are scaled to 1/K, its columns to
    1/N.
    """
    kept = [i for i in range(len(scores)) if valid is None or valid[i]]
    n, k = len(kept), scores.shape[1]
    q = [[math.exp(float(scores[i, j]) / epsilon) for i in kept] for j in range(k)]
    total = sum(map(sum, q))
    q = [[v / total for v in row] for row in q]
    for _ in range(iterations):
        q = [[v / sum(row) / k for v in row] for row in q]
        sums = [sum(q[j][i] for j in range(k)) for i in range(n)]
        q = [[row[i] / sums[i] / n for i in range(n)] for row in q]
    result = np.zeros(scores.shape)
    for column, i in enumerate(kept):
        for j in range(k):
            result[i, j] = n * q[j][column]
    return result


def reference_swav(first, second, assigned_first, assigned_second, valid=None, temperature=0.1):
    """The assignments are arguments, because no gradient flows through them."""
    kept, loss = [i for i in range(len(first)) if valid is None or valid[i]], 0.0
    for i in kept:
        for view, assigned in ((first[i], assigned_second[i]), (second[i], assigned_first[i])):
            total = sum(math.exp(v / temperature) for v in view)
            loss -= sum(q * math.log(math.exp(v / temperature) / total) for q, v in zip(assigned, view, strict=True))
    return loss / len(kept)


def case(name, padded, temperature=0.1, epsilon=0.05, iterations=3):
    valid = {"valid": PADDED} if padded else {}
    first, second = (pad_with_nan(x) if padded else x for x in scores())
    codes = [reference_sinkhorn(x.astype(np.float64), epsilon, iterations, **valid) for x in (first, second)]

    def loss(first, second, assigned_first, assigned_second, valid=None):
        return swav(first, second, temperature, epsilon, iterations, valid)[0]

    def reference(**arrays):
        return reference_swav(**arrays, temperature=temperature)

    fixed = {"assigned_first": codes[0], "assigned_second": codes[1], **valid}
    return checks.Case(name + "_padded" * padded, loss, reference, {"first": first, "second": second}, fixed)


CASES = [
    case("swav", padded=False),
    case("swav", padded=True),
    case("swav_soft", padded=False, temperature=0.5, epsilon=0.4, iterations=1),
    case("swav_converged", padded=True, epsilon=0.1, iterations=20),
]


@pytest.mark.parametrize("epsilon, iterations", [(0.05, 1), (0.05, 3), (0.5, 3), (0.05, 30)])
def test_sinkhorn_equals_the_reference(epsilon, iterations):
    x, _ = scores()
    expected = reference_sinkhorn(x.astype(np.float64), epsilon, iterations)
    np.testing.assert_allclose(sinkhorn(x, epsilon, iterations), expected, rtol=1e-4, atol=1e-7)
    expected = reference_sinkhorn(x.astype(np.float64), epsilon, iterations, PADDED)
    np.testing.assert_allclose(sinkhorn(pad_with_nan(x), epsilon, iterations, PADDED), expected, rtol=1e-4, atol=1e-7)


def test_sinkhorn_uses_all_prototypes_equally():
    x, _ = scores(batch=12)
    assert np.bincount(x.argmax(1), minlength=3)[0] > 6  # without balancing, most rows prefer the first
    q = np.asarray(sinkhorn(x, 0.1, 50))
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.sum(0), 4, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(sinkhorn(x)).sum(1), 1, rtol=1e-5)


def test_sinkhorn_by_hand():
    # Both rows prefer the first prototype; the row with the stronger preference is assigned to it.
    q = np.asarray(sinkhorn(jnp.array([[0.9, 0.0], [0.8, 0.5]]), 0.2, 100))
    ratio = math.exp((0.9 - 0.0 - 0.8 + 0.5) / 0.2)  # Q11 Q22 / (Q12 Q21) is invariant to scaling of rows and columns
    expected = math.sqrt(ratio) / (1 + math.sqrt(ratio))
    np.testing.assert_allclose(q, [[expected, 1 - expected], [1 - expected, expected]], rtol=1e-3, atol=1e-6)


def test_sinkhorn_does_not_overflow():
    for x in (1e4 * scores()[0], -1e4 * scores()[0], np.array([[1e30, 0], [0, 1]], np.float32)):
        q = np.asarray(sinkhorn(x))
        assert np.all(np.isfinite(q))
        np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    assert np.all(np.isfinite(sinkhorn(scores()[0], 1e-6)))


def test_sinkhorn_of_one_row_no_rows_and_zero_scores():
    np.testing.assert_allclose(sinkhorn(jnp.array([[0.9, -0.5, 0.1]])), [[1 / 3] * 3], rtol=1e-6)
    np.testing.assert_array_equal(sinkhorn(pad_with_nan(scores()[0]), valid=NONE), np.zeros((8, 3)))
    np.testing.assert_allclose(sinkhorn(jnp.zeros((4, 5))), np.full((4, 5), 0.2), rtol=1e-6)
    x = jnp.asarray(scores()[0])
    assert np.all(np.asarray(gradient_of(lambda x: (sinkhorn(x) ** 2).sum())(x)) == 0)
    assert sinkhorn(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_swav_by_hand():
    # Each prototype has one row: the assignments are nearly one-hot, and the two views contradict
    # each other.
    first, second = jnp.eye(2), jnp.eye(2)[::-1]
    right, wrong = -jax.nn.log_softmax(jnp.array([1.0, 0.0]) / 0.5)
    assert swav(first, first, 0.5)[0] == pytest.approx(2 * float(right), rel=1e-5)
    assert swav(first, second, 0.5)[0] == pytest.approx(2 * float(wrong), rel=1e-5)


def test_swav_swaps_the_assignments_of_the_views():
    first, second = scores()
    confused, _ = swav(first, np.zeros_like(second))
    # The second view's assignments and predictions are uniform.
    log_p = jax.nn.log_softmax(first / 0.1, axis=1)
    assert confused == pytest.approx(float(-jnp.mean(log_p, axis=1).mean() + math.log(3)), rel=1e-5)


def test_a_step_raises_the_score_of_the_other_views_prototype():
    first = jnp.array([[0.3, 0.2], [0.2, 0.3]])
    second = jnp.array([[0.1, 0.9], [0.9, 0.1]])
    grad = np.asarray(gradient_of(lambda a: swav(a, second)[0])(first))
    assert grad[0, 1] < 0 < grad[0, 0] and grad[1, 0] < 0 < grad[1, 1]


def test_perplexities_of_collapsed_and_sharp_assignments():
    sharp = jnp.eye(4)
    _, metrics = swav(sharp, sharp, temperature=0.05)
    assert metrics["perplexity_assignment"] == pytest.approx(1, abs=1e-3)
    assert metrics["perplexity_batch"] == pytest.approx(4, rel=1e-4)
    collapsed = jnp.tile(sharp[:1], (4, 1))
    _, metrics = swav(collapsed, collapsed, temperature=0.05)
    assert metrics["perplexity_assignment"] == pytest.approx(4, rel=1e-4)
    assert metrics["perplexity_batch"] == pytest.approx(1, abs=1e-3)


def test_padding_has_no_influence_and_no_gradient():
    first, second = scores()
    expected, expected_metrics = swav(first[PADDED], second[PADDED])
    with_nan = jnp.asarray(pad_with_nan(first)), jnp.asarray(np.where(PADDED[:, None], second, 1e9))
    (loss, metrics), grads = value_and_gradient_of(lambda v: swav(*v, valid=jnp.asarray(PADDED)), has_aux=True)(
        with_nan
    )
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert metrics.keys() == expected_metrics.keys() == {"perplexity_assignment", "perplexity_batch"}
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-5), name
    for grad in grads:
        assert np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[~PADDED] == 0)


def test_nothing_valid_is_zero_with_zero_gradient():
    nan = jnp.full((8, 3), jnp.nan)
    (loss, metrics), grad = value_and_gradient_of(lambda a: swav(a, nan, valid=NONE), has_aux=True)(nan)
    assert loss == 0 and np.all(np.asarray(grad) == 0)
    assert all(np.isfinite(value) for value in metrics.values())


def test_one_row_and_zero_scores_are_finite():
    for x in (jnp.array([[0.9, -0.5, 0.1]]), jnp.zeros((1, 3)), jnp.zeros((8, 3))):
        loss, grad = value_and_gradient_of(lambda a, x=x: swav(a, x)[0])(x)
        assert np.isfinite(loss) and np.all(np.isfinite(grad))
    assert loss == pytest.approx(2 * math.log(3), rel=1e-6) and np.abs(grad).max() < 1e-6


def test_half_precision_is_computed_in_float32():
    first, second = (jnp.asarray(x, jnp.bfloat16) for x in scores())
    loss, metrics = swav(first, second)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in (loss, *metrics.values()))
    assert loss == pytest.approx(float(swav(first.astype(jnp.float32), second.astype(jnp.float32))[0]), rel=1e-6)


def test_metrics_carry_no_gradient():
    first, second = scores()
    grad = gradient_of(lambda a: sum(swav(a, second)[1].values()))(jnp.asarray(first))
    assert np.all(np.asarray(grad) == 0)


def test_bad_arguments():
    first, second = scores()
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            swav(first, second, bad)
        with pytest.raises(ValueError, match="epsilon"):
            swav(first, second, epsilon=bad)
        with pytest.raises(ValueError, match="epsilon"):
            sinkhorn(first, bad)
    with pytest.raises(ValueError, match="iterations"):
        sinkhorn(first, iterations=0)
    with pytest.raises(ValueError, match="views"):
        swav(first, second[:, :2])
    with pytest.raises(ValueError, match="views"):
        swav(first[0], second[0])
    with pytest.raises(ValueError, match="valid"):
        swav(first, second, valid=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="valid"):
        sinkhorn(first, valid=jnp.ones(3, bool))
