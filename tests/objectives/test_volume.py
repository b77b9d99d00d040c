import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import volume as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

volume = checks.compiled_functions(objectives)

NAN = np.nan


def stacks(batch=8, slices=3, size=3, structures=2, seed=0):
    """Probabilities of the structures, slice mask, voxel volumes, and a table with unknown
    volumes.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(batch, slices, size, size, structures + 1))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mask = np.arange(slices) < rng.integers(1, slices + 1, batch)[:, None]
    voxel = rng.uniform(0.1, 0.9, batch)
    table = rng.uniform(0.5, 6, (batch, structures))
    table[rng.random(table.shape) < 0.3] = NAN
    return (
        logits.astype(np.float32),
        p[..., 1:].astype(np.float32),
        mask,
        voxel.astype(np.float32),
        table.astype(np.float32),
    )


def reference_volumes(probabilities, slice_mask, voxel_ml):
    batch, slices, height, width, structures = probabilities.shape
    result = np.zeros((batch, structures))
    for b in range(batch):
        for k in range(slices):
            for y in range(height):
                for x in range(width):
                    for s in range(structures):
                        if slice_mask[b, k]:
                            result[b, s] += probabilities[b, k, y, x, s] * voxel_ml[b]
    return result


def reference_consistency(predicted, table, valid, floor_ml, huber_delta=math.inf):
    penalties = []
    for b in range(len(predicted)):
        for s in range(predicted.shape[1]):
            if valid[b] and not math.isnan(table[b, s]):
                error = abs(math.log(predicted[b, s] + floor_ml) - math.log(table[b, s] + floor_ml))
                penalties.append(error**2 if error < huber_delta else 2 * huber_delta * error - huber_delta**2)
    return sum(penalties) / len(penalties)


def reference_softmax(logits):
    e = [math.exp(v) for v in logits]
    return [v / sum(e) for v in e]


def reference_entropy(logits, mask):
    entropies = []
    for index in np.ndindex(logits.shape[:-1]):
        if mask[index[: mask.ndim]]:
            entropies.append(-sum(p * math.log(p) for p in reference_softmax(logits[index])))
    return sum(entropies) / len(entropies)


def reference_pseudo_cross_entropy(logits, labels, weight):
    total = 0.0
    for index in np.ndindex(labels.shape):
        if weight[index] > 0:
            total -= weight[index] * math.log(reference_softmax(logits[index])[labels[index]])
    return total / weight.sum()


def make_cases():
    logits, p, mask, voxel, table = stacks()
    valid = np.arange(8) != 5
    labels = np.random.default_rng(1).integers(0, 3, logits.shape[:-1])
    weight = np.random.default_rng(2).choice([0, 0.5, 1], labels.shape).astype(np.float32)
    predicted = volume.volumes(p, mask, voxel)
    return [
        checks.Case(
            "volume consistency",
            lambda predicted, table, valid: volume.consistency(predicted, table, valid, 0.5)[0],
            lambda predicted, table, valid: reference_consistency(predicted, table, valid, 0.5),
            {"predicted": np.asarray(predicted)},
            {"table": table, "valid": valid},
        ),
        checks.Case(
            "volume consistency, Huber",
            lambda predicted, table, valid: volume.consistency(predicted, table, valid, 0.5, 0.4)[0],
            lambda predicted, table, valid: reference_consistency(predicted, table, valid, 0.5, 0.4),
            {"predicted": np.asarray(predicted)},
            {"table": table, "valid": valid},
        ),
        checks.Case(
            "volume consistency of masks",
            lambda p, mask, voxel, table, valid: volume.consistency(
                volume.volumes(p, mask, voxel, valid), table, valid
            )[0],
            lambda p, mask, voxel, table, valid: reference_consistency(
                reference_volumes(p, mask, voxel), table, valid, 1.0
            ),
            {"p": p},
            {"mask": mask, "voxel": voxel, "table": table, "valid": valid},
        ),
        checks.Case(
            "pixel entropy",
            lambda logits, mask: volume.entropy(logits, mask)[0],
            reference_entropy,
            {"logits": logits},
            {"mask": mask},
        ),
        checks.Case(
            "pseudo cross-entropy",
            lambda logits, labels, weight: volume.pseudo_cross_entropy(logits, labels, weight)[0],
            reference_pseudo_cross_entropy,
            {"logits": logits},
            {"labels": labels, "weight": weight},
        ),
    ]


CASES = make_cases()


def test_volumes_equal_the_reference():
    _, p, mask, voxel, _ = stacks()
    result = volume.volumes(p, mask, voxel)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_volumes(p, mask, voxel), rtol=1e-5)


def test_a_ball_has_the_volume_of_a_ball():
    # Radius 24 mm on a grid of 1 x 1 x 2 mm: 4/3 pi 2.4^3 ml. The second stack holds it twice, at
    # probability 1/2.
    z, y, x = np.meshgrid(2 * (np.arange(26) - 12.5), *2 * [np.arange(50) - 24.5], indexing="ij")
    ball = (z**2 + y**2 + x**2 <= 24**2).astype(np.float32)
    p = np.stack([np.stack([ball, 0 * ball], -1), np.stack([ball / 2, ball / 2], -1)])
    result = volume.volumes(p, np.ones((2, 26), bool), np.full(2, 0.002))
    exact = 4 / 3 * np.pi * 2.4**3
    np.testing.assert_allclose(result, [[exact, 0], [exact / 2, exact / 2]], rtol=0.01)
    upper = np.broadcast_to(np.arange(26) < 13, (2, 26))
    np.testing.assert_allclose(volume.volumes(p, upper, np.full(2, 0.002)), np.asarray(result) / 2, rtol=1e-6)


def test_consistency_by_hand():
    # log((7 + 1) / (3 + 1)) = log 2, log((1 + 1) / (7 + 1)) = -2 log 2, one unknown, one exact.
    predicted, table = jnp.array([[7.0, 1.0], [5.0, 4.0]]), jnp.array([[3.0, 7.0], [NAN, 4.0]])
    loss, metrics = volume.consistency(predicted, table)
    assert loss == pytest.approx(5 * math.log(2) ** 2 / 3, rel=1e-6) and loss.dtype == np.float32
    assert metrics["volume_error"] == pytest.approx((4 / 3 + 6 / 7 + 0) / 3, rel=1e-6)
    assert metrics["volume_known"] == pytest.approx(3 / 4)


def test_huber_delta_bounds_the_gradient():
    table = jnp.array([[7.0]])  # log errors of log 2 and log 8 against 1 + 7
    grads = [
        float(
            gradient_of(lambda v: volume.consistency(v, table, huber_delta=math.log(2))[0])(jnp.array([[v]]))[0, 0]
            * (v + 1)
        )
        for v in (4.0, 3.0, 0.0)
    ]
    assert grads == pytest.approx([-2 * math.log(8 / 5), -2 * math.log(2), -2 * math.log(2)], rel=1e-5)


def test_a_step_enlarges_a_small_mask_and_shrinks_a_large_one():
    p, mask, voxel = jnp.full((2, 1, 2, 2, 1), 0.5), np.ones((2, 1), bool), np.ones(2)
    table = jnp.array([[4.0], [0.5]])  # the predicted volume is 2 ml in both
    grad = gradient_of(lambda p: volume.consistency(volume.volumes(p, mask, voxel), table)[0])(p)
    assert np.all(np.asarray(grad)[0] < 0) and np.all(np.asarray(grad)[1] > 0)


def test_an_empty_mask_has_a_gradient():
    p, mask, voxel = jnp.zeros((1, 1, 2, 2, 1)), np.ones((1, 1), bool), np.ones(1)
    grad = gradient_of(lambda p: volume.consistency(volume.volumes(p, mask, voxel), jnp.array([[100.0]]))[0])(p)
    # d/dv (log(v + 1) - log 101)^2 at 0
    np.testing.assert_allclose(grad, np.full(p.shape, -2 * math.log(101)), rtol=1e-5)


def test_unknown_volumes_and_padding_have_no_influence():
    _, p, mask, voxel, table = stacks()
    valid = np.arange(8) < 6
    assert np.isnan(table[:6]).any()

    def loss(p, voxel, table, mask, valid):
        return volume.consistency(volume.volumes(p, mask, voxel, valid), table, valid)[0]

    expected = loss(p[:6], voxel[:6], table[:6], mask[:6], valid[:6])
    p, voxel, table = p.copy(), voxel.copy(), table.copy()
    p[6:], voxel[6:], table[6], table[7] = NAN, NAN, NAN, 3
    p[~mask] = NAN
    result, grads = value_and_gradient_of(loss, (0, 1, 2))(*map(jnp.asarray, (p, voxel, table)), mask, valid)
    assert result == pytest.approx(float(expected), rel=1e-6)
    for g in grads:
        assert np.isfinite(g).all() and np.all(np.asarray(g)[6:] == 0)
    assert np.all(np.asarray(grads[0])[~mask] == 0) and np.all(np.asarray(grads[2]) == 0)
    unknown = np.isnan(table) & valid[:, None]
    gradient = gradient_of(lambda v: volume.consistency(v, table, valid)[0])(jnp.ones(table.shape))
    assert unknown.any() and np.all(np.asarray(gradient)[unknown] == 0)


@pytest.mark.parametrize("valid", [np.zeros(3, bool), np.ones(3, bool)])
def test_nothing_known_is_zero_with_zero_gradient(valid):
    table = np.full((3, 2), 4.0) if not valid.any() else np.full((3, 2), NAN)
    (loss, metrics), grad = value_and_gradient_of(lambda v: volume.consistency(v, table, valid), has_aux=True)(
        jnp.ones((3, 2))
    )
    assert loss == 0 and np.all(np.asarray(grad) == 0) and all(v == 0 for v in metrics.values())
    logits = jnp.ones((3, 2, 4, 4, 3))
    for objective in (
        lambda x: volume.entropy(x, np.zeros((3, 2), bool)),
        lambda x: volume.pseudo_cross_entropy(x, np.zeros((3, 2, 4, 4), int), np.zeros((3, 2, 4, 4))),
    ):
        (loss, metrics), grad = value_and_gradient_of(objective, has_aux=True)(logits)
        assert loss == 0 and np.all(np.asarray(grad) == 0) and all(v == 0 for v in metrics.values())


def test_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]])).reshape(1, 2, 2)
    expected = (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2
    loss, metrics = volume.entropy(logits, np.ones((1, 2), bool))
    assert loss == pytest.approx(expected, rel=1e-6) and loss.dtype == np.float32
    assert metrics["confidence"] == pytest.approx(0.7)
    assert volume.entropy(logits, np.array([[True, False]]))[0] == pytest.approx(math.log(2), rel=1e-6)


def test_an_entropy_step_raises_the_more_probable_class():
    grad = gradient_of(lambda x: volume.entropy(x, np.ones(2, bool))[0])(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert grad[0, 0] < 0 < grad[0, 1] and grad[1, 1] < 0 < grad[1, 0]


def test_masked_pixels_have_no_influence():
    logits, _, mask, _, _ = stacks()
    program = value_and_gradient_of(lambda x: volume.entropy(x, mask)[0])
    expected, _ = program(jnp.asarray(logits))
    logits[~mask] = NAN
    loss, grad = program(jnp.asarray(logits))
    assert loss == expected and np.isfinite(grad).all() and np.all(np.asarray(grad)[~mask] == 0)
    weight = np.broadcast_to(mask[:, :, None, None], logits.shape[:-1]).astype(np.float32)
    labels = np.where(weight > 0, 1, 99)
    loss, grad = value_and_gradient_of(lambda x: volume.pseudo_cross_entropy(x, labels, weight)[0])(jnp.asarray(logits))
    assert np.isfinite(loss) and np.isfinite(grad).all() and np.all(np.asarray(grad)[~mask] == 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits_are_finite(dtype):
    logits = jnp.array([[1e30, 0, -1e30], [0, -1e4, 1e4]], dtype)
    labels, weight = jnp.array([0, 2]), jnp.ones(2)
    for objective in (
        lambda x: volume.entropy(x, jnp.ones(2, bool))[0],
        lambda x: volume.pseudo_cross_entropy(x, labels, weight)[0],
    ):
        loss, grad = value_and_gradient_of(objective)(logits)
        assert loss == 0 and loss.dtype == np.float32 and np.isfinite(np.asarray(grad, np.float32)).all()


def hard(label, confidence, classes=3):
    """[B, K, H, W] labels -> probabilities whose most probable class they are."""
    return np.where(label[..., None] == np.arange(classes), confidence, (1 - confidence) / (classes - 1))


def test_pseudo_labels_by_hand():
    label = np.zeros((6, 2, 2, 4), int)
    label[:, 0, 0] = 1  # 4 pixels of structure 1, 2 of structure 2
    label[:, 1, 1, :2] = 2
    p = hard(label, 0.8)
    p[0, 0, 1, 0] = (0.4, 0.3, 0.3)  # not confident
    table = np.array([[2.0, 1.0], [2.2, NAN], [2.3, NAN], [2.0, 1.3], [NAN, NAN], [2.0, 1.0]], np.float32)
    mask = np.ones((6, 2), bool)
    mask[5, 1] = False  # without its second slice, the volume of structure 2 is too small
    labels, weight, metrics = volume.pseudo_labels(p, mask, np.full(6, 0.5), table, tolerance=0.1, confidence=0.7)
    assert labels.dtype == np.int32 and weight.dtype == np.float32
    np.testing.assert_array_equal(labels[:5], label[:5])
    np.testing.assert_array_equal(labels[5, 1], np.zeros((2, 4)))
    expected = np.zeros((6, 2, 2, 4))
    expected[:2] = 1
    expected[0, 0, 1, 0] = 0
    np.testing.assert_array_equal(weight, expected)
    assert metrics["pseudo_kept"] == pytest.approx(2 / 6)
    assert metrics["pseudo_pixels"] == pytest.approx(31 / (11 * 8))
    everything = volume.pseudo_labels(p, mask, np.full(6, 0.5), table, tolerance=0.1, confidence=0.0)[1]
    assert everything[0].min() == 1
    exact = volume.pseudo_labels(p, mask, np.full(6, 0.5), table, tolerance=0.0, confidence=0.0)[2]
    assert exact["pseudo_kept"] == pytest.approx(1 / 6)


def test_pseudo_labels_ignore_padding_and_carry_no_gradient():
    label = np.zeros((2, 1, 2, 2), int)
    label[:, :, 0] = 1
    p, table = hard(label, 0.9).astype(np.float32), np.array([[2.0, NAN], [2.0, NAN]])
    p[1] = NAN
    mask, voxel, valid = np.ones((2, 1), bool), np.array([1, NAN]), np.array([True, False])
    labels, weight, metrics = volume.pseudo_labels(p, mask, voxel, table, 0.1, 0.5, valid)
    np.testing.assert_array_equal(weight, np.stack([np.ones((1, 2, 2)), np.zeros((1, 2, 2))]))
    np.testing.assert_array_equal(labels[0], label[0])
    assert metrics["pseudo_kept"] == 1 and metrics["pseudo_pixels"] == 1
    none_valid = volume.pseudo_labels(p, mask, voxel, table, 0.1, 0.5, np.zeros(2, bool))[2]
    assert none_valid["pseudo_kept"] == 0 and none_valid["pseudo_pixels"] == 0
    grad = gradient_of(lambda p: volume.pseudo_labels(p, mask, voxel, table, 0.1, 0.5, valid)[1].sum())(jnp.asarray(p))
    assert np.all(np.asarray(grad) == 0)


def test_pseudo_labels_do_not_depend_on_the_rest_of_the_batch():
    logits, _, mask, voxel, table = stacks()
    p = jax.nn.softmax(jnp.asarray(logits))
    labels, weight, _ = volume.pseudo_labels(p, mask, voxel, table, 0.5, 0.4)
    assert 0 < np.asarray(weight).mean() < 1
    for i in range(0, 8, 2):
        part = volume.pseudo_labels(p[i : i + 2], mask[i : i + 2], voxel[i : i + 2], table[i : i + 2], 0.5, 0.4)
        np.testing.assert_array_equal(part[0], labels[i : i + 2])
        np.testing.assert_array_equal(part[1], weight[i : i + 2])


def test_pseudo_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]))
    labels, weight = jnp.array([0, 1, 1]), jnp.array([1.0, 0.5, 0.0])
    loss, metrics = volume.pseudo_cross_entropy(logits, labels, weight)
    assert loss == pytest.approx(-(math.log(0.5) + 0.5 * math.log(0.1)) / 1.5, rel=1e-6)
    assert metrics["pseudo_agreement"] == pytest.approx(1 / 1.5)
    grad = gradient_of(lambda x: volume.pseudo_cross_entropy(x, labels, weight)[0])(logits)
    assert grad[0, 0] < 0 < grad[0, 1] and grad[1, 1] < 0 < grad[1, 0] and np.all(np.asarray(grad[2]) == 0)


def test_a_label_outside_the_classes_makes_the_loss_nan():
    logits = jnp.zeros((2, 3))
    assert np.isnan(volume.pseudo_cross_entropy(logits, jnp.array([0, 3]), jnp.ones(2))[0])
    assert np.isfinite(volume.pseudo_cross_entropy(logits, jnp.array([0, 3]), jnp.array([1.0, 0.0]))[0])


def test_metrics_have_no_gradient():
    for objective in (
        lambda x: volume.consistency(x, jnp.ones((2, 3)))[1],
        lambda x: volume.entropy(x, jnp.ones(2, bool))[1],
        lambda x: volume.pseudo_cross_entropy(x, jnp.zeros(2, int), jnp.ones(2))[1],
    ):
        grad = gradient_of(lambda x, f=objective: sum(f(x).values()))(jnp.array([[1.0, 2, 3], [3, 1, 2]]))
        assert np.all(np.asarray(grad) == 0)
        assert all(v.dtype == np.float32 and v.shape == () for v in objective(jnp.ones((2, 3))).values())


def test_bad_arguments():
    logits, p, mask, voxel, table = stacks()
    with pytest.raises(ValueError, match="probabilities must"):
        volume.volumes(p[:, 0], mask, voxel)
    with pytest.raises(ValueError, match="slice_mask"):
        volume.volumes(p, mask[:4], voxel)
    with pytest.raises(ValueError, match="voxel_ml"):
        volume.volumes(p, mask, voxel[:, None])
    with pytest.raises(ValueError, match="valid"):
        volume.volumes(p, mask, voxel, np.ones(3, bool))
    with pytest.raises(ValueError, match="predicted and table"):
        volume.consistency(table, table[:, :1])
    with pytest.raises(ValueError, match="valid"):
        volume.consistency(table, table, np.ones((8, 2), bool))
    for floor in (0.0, -1.0, math.inf, NAN):
        with pytest.raises(ValueError, match="floor_ml"):
            volume.consistency(table, table, floor_ml=floor)
    for huber_delta in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="huber_delta"):
            volume.consistency(table, table, huber_delta=huber_delta)
    with pytest.raises(ValueError, match="mask"):
        volume.entropy(logits, mask.T)
    with pytest.raises(ValueError, match="two classes"):
        volume.entropy(logits[..., :1], mask)
    with pytest.raises(ValueError, match="table must"):
        volume.pseudo_labels(logits, mask, voxel, table[:, :1], 0.1, 0.5)
    for tolerance in (-0.1, math.inf, NAN):
        with pytest.raises(ValueError, match="tolerance"):
            volume.pseudo_labels(logits, mask, voxel, table, tolerance, 0.5)
    with pytest.raises(ValueError, match="confidence"):
        volume.pseudo_labels(logits, mask, voxel, table, 0.1, 1.1)
    with pytest.raises(ValueError, match="labels"):
        volume.pseudo_cross_entropy(logits, np.zeros((8, 3), int), np.zeros((8, 3)))
