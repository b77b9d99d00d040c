import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives.contrastive import effective_rank, info_nce


def embeddings(batch=6, width=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, width)).astype(np.float32), rng.normal(size=(batch, width)).astype(np.float32)


def slow_info_nce(image, table, tau, weight):
    """The two cross-entropies, written out in float64 loops."""

    def unit(x):
        return [row / math.sqrt(sum(v * v for v in row)) for row in x.astype(np.float64)]

    image, table = unit(image), unit(table)
    n = len(image)
    sim = [
        [math.exp(sum(a * b for a, b in zip(image[i], table[j], strict=True)) / tau) for j in range(n)]
        for i in range(n)
    ]
    forward = sum(-math.log(sim[i][i] / sum(sim[i][j] for j in range(n))) for i in range(n)) / n
    backward = sum(-math.log(sim[i][i] / sum(sim[j][i] for j in range(n))) for i in range(n)) / n
    return weight * forward + (1 - weight) * backward, forward, backward


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_equals_slow_loops(weight, tau):
    image, table = embeddings()
    loss, metrics = info_nce(image, table, math.log(tau), weight)
    expected, forward, backward = slow_info_nce(image, table, tau, weight)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics["loss_image_to_table"] == pytest.approx(forward, rel=1e-5)
    assert metrics["loss_table_to_image"] == pytest.approx(backward, rel=1e-5)
    assert abs(forward - backward) > 1e-3  # the two directions differ, so swapping them would be seen
    assert metrics["temperature"] == pytest.approx(tau, rel=1e-6)


def test_weight_extremes_are_single_directions():
    image, table = embeddings()
    loss, metrics = info_nce(image, table, -1.0, 1.0)
    assert loss == metrics["loss_image_to_table"]
    loss, metrics = info_nce(image, table, -1.0, 0.0)
    assert loss == metrics["loss_table_to_image"]


def test_swapping_modalities_swaps_directions():
    image, table = embeddings()
    loss, a = info_nce(image, table, -1.0, 0.3)
    swapped, b = info_nce(table, image, -1.0, 0.7)
    assert loss == pytest.approx(float(swapped), rel=1e-6)
    for name in ("loss", "top1", "top5"):
        assert a[f"{name}_image_to_table"] == pytest.approx(float(b[f"{name}_table_to_image"]), rel=1e-6)


def test_permuting_subjects_and_scaling_rows_change_nothing():
    image, table = embeddings()
    order = np.array([3, 1, 0, 5, 4, 2])
    scale = np.linspace(0.5, 3, 6, dtype=np.float32)[:, None]
    loss, _ = info_nce(image, table, -1.0)
    other, _ = info_nce(image[order] * scale, table[order] / scale, -1.0)
    assert loss == pytest.approx(float(other), rel=1e-5)


def test_equal_embeddings_give_log_batch_and_no_retrieval():
    image = np.ones((6, 4), np.float32)
    loss, metrics = info_nce(image, image, math.log(0.1))
    assert loss == pytest.approx(math.log(6), rel=1e-6)
    assert metrics["top1_image_to_table"] == 0  # five ties: all counted against us
    assert metrics["top5_image_to_table"] == 0
    assert metrics["effective_rank_image"] == pytest.approx(1, abs=1e-5)
    assert metrics["embedding_norm_table"] == pytest.approx(2)


def test_orthonormal_embeddings_have_a_closed_form():
    image, tau = np.eye(5, 7, dtype=np.float32), 0.5
    loss, metrics = info_nce(3 * image, image, math.log(tau))
    assert loss == pytest.approx(math.log1p(4 * math.exp(-1 / tau)), rel=1e-5)
    assert metrics["top1_table_to_image"] == 1
    assert metrics["effective_rank_table"] == pytest.approx(5, rel=1e-5)
    assert metrics["embedding_norm_image"] == pytest.approx(3)


def test_retrieval_ranks_by_hand():
    def circle(degrees):
        return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1).astype(np.float32)

    table = circle(np.arange(0, 360, 60))  # row i at 60 i degrees
    degrees = np.arange(0, 360, 60) + 5.0  # nearest to its own row, but for two:
    degrees[0] = 160  # 160, 100, 40, 20, 80, 140 degrees from rows 0..5: its own comes last, rank 5
    degrees[1] = 190  # 170, 130, 70, 10, 50, 110 degrees: its own has rank 4, just among the top five
    _, metrics = info_nce(circle(degrees), table, 0.0)
    assert metrics["top1_image_to_table"] == pytest.approx(4 / 6)
    assert metrics["top5_image_to_table"] == pytest.approx(5 / 6)


def test_top5_of_fewer_than_five_rows_is_one():
    image, _ = embeddings(batch=3)
    _, metrics = info_nce(image, -image, 0.0)
    assert metrics["top5_image_to_table"] == 1
    assert metrics["top1_image_to_table"] == 0


def test_padding_changes_nothing_and_gets_no_gradient():
    image, table = embeddings()
    valid = np.array([True, True, False, True, False, True])
    padded_image = np.where(valid[:, None], image, np.nan)
    padded_table = np.where(valid[:, None], table, 1e3).astype(np.float32)
    loss, metrics = info_nce(padded_image, padded_table, -1.0, 0.3, jnp.asarray(valid))
    expected, expected_metrics = info_nce(image[valid], table[valid], -1.0, 0.3)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-5), name
    grad = jax.grad(lambda x: info_nce(x, padded_table, -1.0, 0.3, jnp.asarray(valid))[0])(jnp.asarray(padded_image))
    assert np.all(np.asarray(grad)[~valid] == 0)
    assert np.all(np.isfinite(grad)) and np.any(np.asarray(grad)[valid] != 0)


def test_a_batch_without_valid_rows_is_zero_and_finite():
    image, table = embeddings()
    fn = lambda x: info_nce(x, table, -1.0, valid=jnp.zeros(6, bool))  # noqa: E731
    (loss, metrics), grad = jax.value_and_grad(fn, has_aux=True)(jnp.asarray(image))
    assert loss == 0 and np.all(np.asarray(grad) == 0)
    assert all(np.isfinite(v) for v in metrics.values())


def test_a_zero_embedding_has_a_finite_gradient():
    image, table = embeddings()
    image[2] = 0
    loss, grad = jax.value_and_grad(lambda x: info_nce(x, table, -1.0)[0])(jnp.asarray(image))
    assert np.isfinite(loss) and np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[2] == 0)


def test_gradient_by_finite_differences():
    image, table = embeddings()
    grad_image, grad_table, grad_tau = jax.grad(lambda *a: info_nce(*a, 0.3)[0], argnums=(0, 1, 2))(
        jnp.asarray(image), jnp.asarray(table), jnp.float32(-0.7)
    )
    image, table, step = image.astype(np.float64), table.astype(np.float64), 1e-5

    def slow(image, table, log_tau):
        return slow_info_nce(image, table, math.exp(log_tau), 0.3)[0]

    for which, grad in ((0, grad_image), (1, grad_table)):
        for index in [(0, 0), (2, 3), (5, 1)]:
            high, low = [image.copy(), table.copy()], [image.copy(), table.copy()]
            high[which][index] += step
            low[which][index] -= step
            expected = (slow(*high, -0.7) - slow(*low, -0.7)) / (2 * step)
            assert grad[index] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    expected = (slow(image, table, -0.7 + step) - slow(image, table, -0.7 - step)) / (2 * step)
    assert grad_tau == pytest.approx(expected, rel=1e-3)


def test_a_gradient_step_pulls_positives_together_and_pushes_negatives_apart():
    image, table = embeddings()
    grad = jax.grad(lambda x: info_nce(x, table, 0.0)[0])(jnp.asarray(image))

    def cosines(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T

    change = cosines(image - 0.01 * np.asarray(grad)) - cosines(image)
    off = ~np.eye(6, dtype=bool)
    assert np.trace(change) > 0 > change[off].sum()


def test_metrics_carry_no_gradient():
    image, table = embeddings()
    grad = jax.grad(lambda x: sum(info_nce(x, table, -1.0)[1].values()))(jnp.asarray(image))
    assert np.all(np.asarray(grad) == 0)


def test_effective_rank():
    rng = np.random.default_rng(0)
    for shape in ((40, 8), (8, 40)):
        z = rng.normal(size=shape).astype(np.float32)
        s = np.linalg.svd(z.astype(np.float64), compute_uv=False)
        share = s / s.sum()
        assert effective_rank(jnp.asarray(z)) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    # A collapsed 128-wide embedding: float32 noise in 127 null directions must not pass for rank.
    line = rng.normal(size=(256, 1)) * rng.normal(size=(1, 128))
    assert effective_rank(jnp.asarray(line, jnp.float32)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(jnp.zeros((4, 3))) == 0


def test_bfloat16_is_computed_in_float32():
    image, table = (jnp.asarray(x, jnp.bfloat16) for x in embeddings())
    loss, _ = info_nce(image, table, -1.0)
    expected, _ = info_nce(image.astype(jnp.float32), table.astype(jnp.float32), -1.0)
    assert loss.dtype == jnp.float32 and loss == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"weight": 1.5}, "weight"), ({"valid": jnp.ones(5, bool)}, "valid")],
)
def test_bad_arguments(kwargs, message):
    image, table = embeddings()
    with pytest.raises(ValueError, match=message):
        info_nce(image, table, 0.0, **kwargs)
    with pytest.raises(ValueError, match=r"\[B, P\]"):
        info_nce(image, table[:5], 0.0)


def test_torch_cross_entropy():
    torch = pytest.importorskip("torch")
    image, table = embeddings(batch=9, width=5)
    a, b = (torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (image, table))
    logits, target = a @ b.T / 0.1, torch.arange(9)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, target) + entropy(logits.T, target)) / 2
    assert info_nce(image, table, math.log(0.1))[0] == pytest.approx(float(expected), rel=1e-5)
