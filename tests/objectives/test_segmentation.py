import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import segmentation as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

dice_ce = checks.compiled(objectives.dice_ce)


def case(batch=3, size=4, n=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(batch, size, size, n)).astype(np.float32)
    return logits, rng.integers(0, n, size=(batch, size, size))


def reference_dice_ce(logits, label, labelled, dice_weight, smooth):
    """Pixel by pixel in float64. labelled: [B, n-1]."""
    batch, height, width, n = logits.shape
    overlap, mass, size = np.zeros(n), np.zeros(n), np.zeros(n)
    entropies, slices = 0.0, 0
    for b in range(batch):
        if not any(labelled[b]):
            continue
        slices += 1
        for y in range(height):
            for x in range(width):
                e = [math.exp(v) for v in logits[b, y, x].astype(np.float64)]
                p = [v / sum(e) for v in e]
                merged = p[0] + sum(p[c] for c in range(1, n) if not labelled[b][c - 1])
                c = label[b, y, x]
                is_foreground = c > 0 and labelled[b][c - 1]
                entropies -= math.log(p[c] if is_foreground else merged) / (height * width)
                for k in range(1, n):
                    if labelled[b][k - 1]:
                        mass[k] += p[k]
                        size[k] += c == k
                        overlap[k] += p[k] * (c == k)
    terms = [1 - (2 * overlap[k] + smooth) / (mass[k] + size[k] + smooth) for k in range(1, n) if size[k] > 0]
    dice = sum(terms) / max(len(terms), 1)
    return dice_weight * dice + (1 - dice_weight) * entropies / max(slices, 1)


PARTIAL = np.array([[True, True, True], [False, True, False], [False, False, False]])


@pytest.mark.parametrize("dice_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("labelled", [np.ones((3, 3), bool), PARTIAL])
def test_equals_the_reference(labelled, dice_weight):
    logits, label = case()
    loss, _ = dice_ce(logits, label, labelled, dice_weight=dice_weight, smooth=0.5)
    assert loss == pytest.approx(reference_dice_ce(logits, label, labelled, dice_weight, 0.5), rel=1e-5)


def test_two_pixels_by_hand():
    # p = (1/2, 1/2) and (1/4, 3/4); labels background and structure.
    logits = np.log(np.array([[1, 1], [1, 3]], np.float32)).reshape(1, 1, 2, 2)
    label = np.array([[[0, 1]]])
    loss, metrics = dice_ce(logits, label, np.array([True]), dice_weight=0.5, smooth=1.0)
    dice = (2 * 0.75 + 1) / (0.5 + 0.75 + 1 + 1)
    cross_entropy = -(math.log(0.5) + math.log(0.75)) / 2
    assert metrics["loss_dice"] == pytest.approx(1 - dice, rel=1e-6)
    assert metrics["loss_cross_entropy"] == pytest.approx(cross_entropy, rel=1e-6)
    assert loss == pytest.approx((1 - dice + cross_entropy) / 2, rel=1e-6)


def test_one_row_of_labelled_applies_to_the_batch():
    logits, label = case()
    row = np.array([True, False, True])
    assert dice_ce(logits, label, row)[0] == dice_ce(logits, label, np.tile(row, (3, 1)))[0]


def test_a_perfect_prediction_has_zero_loss():
    _, label = case()
    logits = 50 * jax.nn.one_hot(label, 4)
    loss, metrics = dice_ce(logits, label, np.ones(3, bool))
    assert loss == pytest.approx(0, abs=1e-5)
    np.testing.assert_array_equal(2 * metrics["intersection"], metrics["cardinality"])


def test_a_structure_absent_from_the_batch_adds_no_dice_gradient():
    logits, label = case()
    label[label == 2] = 0
    grad = gradient_of(lambda x: dice_ce(x, label, np.ones(3, bool), dice_weight=1.0)[0])
    unlabelled = gradient_of(lambda x: dice_ce(x, label, np.array([True, False, True]), dice_weight=1.0)[0])
    np.testing.assert_array_equal(grad(jnp.asarray(logits)), unlabelled(jnp.asarray(logits)))
    # Cross-entropy penalises absent structures: raising their logit anywhere increases the loss.
    entropy = gradient_of(lambda x: dice_ce(x, label, np.ones(3, bool), dice_weight=0.0)[0])(jnp.asarray(logits))
    assert np.all(np.asarray(entropy)[..., 2] > 0)


def test_a_structure_absent_from_one_slice_counts_its_false_positives():
    logits, label = case()
    label[0][label[0] == 1] = 0
    grad = gradient_of(lambda x: dice_ce(x, label, np.ones(3, bool), dice_weight=1.0)[0])(jnp.asarray(logits))
    assert np.asarray(grad)[0, ..., 1].sum() > 0


def test_empty_slices_are_finite():
    logits, label = case()
    (loss, _), grad = value_and_gradient_of(lambda x: dice_ce(x, 0 * label, np.ones(3, bool)), has_aux=True)(
        jnp.asarray(logits)
    )
    assert np.isfinite(loss) and loss > 0
    assert np.all(np.isfinite(grad)) and np.any(np.asarray(grad) != 0)


def test_nothing_labelled_is_zero_with_zero_gradient():
    logits, label = case()
    (loss, metrics), grad = value_and_gradient_of(lambda x: dice_ce(x, label, np.zeros(3, bool)), has_aux=True)(
        jnp.asarray(logits)
    )
    assert loss == 0 and np.all(np.asarray(grad) == 0)
    assert np.all(metrics["cardinality"] == 0)


def test_unlabelled_slices_do_not_dilute_the_mean():
    logits, label = case()
    loss, _ = dice_ce(logits, label, np.array([[True] * 3, [False] * 3, [True] * 3]))
    assert loss == pytest.approx(float(dice_ce(logits[[0, 2]], label[[0, 2]], np.ones(3, bool))[0]), rel=1e-6)


def test_the_split_between_background_and_unlabelled_does_not_matter():
    # Only the sum of the probabilities of background and unlabelled structures matters.
    labelled, label = np.array([True, False, False]), np.array([[[0, 1], [0, 0]]])
    a = np.log(np.tile(np.array([0.5, 0.2, 0.1, 0.2], np.float32), (1, 2, 2, 1)))
    b = np.log(np.tile(np.array([0.1, 0.2, 0.4, 0.3], np.float32), (1, 2, 2, 1)))
    assert dice_ce(a, label, labelled)[0] == pytest.approx(float(dice_ce(b, label, labelled)[0]), rel=1e-6)
    everything = np.ones(3, bool)
    assert abs(dice_ce(a, label, everything)[0] - dice_ce(b, label, everything)[0]) > 0.1


def test_padding_has_no_influence_and_no_gradient():
    logits, label = case()
    expected, expected_metrics = dice_ce(logits[:2], label[:2], PARTIAL[:2])
    logits[2], label[2] = np.nan, 200
    valid = jnp.array([True, True, False])
    labelled = np.concatenate([PARTIAL[:2], [[True] * 3]])
    (loss, metrics), grad = value_and_gradient_of(lambda x: dice_ce(x, label, labelled, valid), has_aux=True)(
        jnp.asarray(logits)
    )
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[2] == 0)
    for name in ("intersection", "cardinality"):
        np.testing.assert_array_equal(metrics[name][:2], expected_metrics[name])
        assert np.all(np.asarray(metrics[name])[2] == 0)


def test_gradient_by_finite_differences():
    logits, label = case()
    grad = gradient_of(lambda x: dice_ce(x, label, PARTIAL, dice_weight=0.4)[0])(jnp.asarray(logits))
    step = 1e-5
    for index in [(0, 0, 0, 0), (0, 1, 2, 3), (1, 3, 3, 2), (1, 0, 1, 1), (2, 0, 0, 1)]:
        high, low = logits.astype(np.float64), logits.astype(np.float64)
        high[index] += step
        low[index] -= step
        expected = reference_dice_ce(high, label, PARTIAL, 0.4, 1.0) - reference_dice_ce(low, label, PARTIAL, 0.4, 1.0)
        assert grad[index] == pytest.approx(expected / (2 * step), rel=1e-3, abs=1e-6)


def test_counts_are_exact_and_additive():
    logits, label = case()
    _, metrics = dice_ce(logits, label, PARTIAL)
    predicted = logits.argmax(-1)
    for b in range(3):
        for c in range(1, 4):
            known = PARTIAL[b, c - 1]
            p, y = predicted[b] == c, label[b] == c
            assert metrics["intersection"][b, c - 1] == known * np.sum(p & y)
            assert metrics["cardinality"][b, c - 1] == known * (p.sum() + y.sum())


@pytest.mark.parametrize("outside", [-1, 4, 255])
def test_a_label_outside_the_classes_makes_the_loss_nan(outside):
    logits, label = case()  # of four classes
    label[1, 0, 0] = outside
    assert np.isnan(dice_ce(logits, label, np.ones(3, bool))[0])


def test_large_and_half_precision_logits_are_finite():
    logits, label = case()
    loss, grad = value_and_gradient_of(lambda x: dice_ce(x, label, PARTIAL)[0])(jnp.asarray(1e4 * logits))
    assert np.isfinite(loss) and np.all(np.isfinite(grad))
    assert dice_ce(jnp.asarray(logits, jnp.bfloat16), label, PARTIAL)[0].dtype == jnp.float32


def test_uint8_labels():
    logits, label = case()
    assert dice_ce(logits, label.astype(np.uint8), PARTIAL)[0] == dice_ce(logits, label, PARTIAL)[0]


def test_bad_shapes():
    logits, label = case()
    with pytest.raises(ValueError, match="label"):
        dice_ce(logits, label[:2], np.ones(3, bool))
    with pytest.raises(ValueError, match="labelled must be"):
        dice_ce(logits, label, np.ones(4, bool))
    with pytest.raises(ValueError, match="dice_weight"):
        dice_ce(logits, label, np.ones(3, bool), dice_weight=2)
    with pytest.raises(ValueError, match="valid"):
        dice_ce(logits, label, np.ones(3, bool), jnp.ones(2, bool))


def test_monai():
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("monai.losses")
    logits, label = case(size=8)
    oracle = losses.DiceCELoss(
        include_background=False, softmax=True, to_onehot_y=True, batch=True, smooth_nr=1.0, smooth_dr=1.0
    )
    # With all classes labelled and present MONAI computes the same (its sum is twice our equally
    # weighted mean).
    expected = oracle(torch.from_numpy(logits).permute(0, 3, 1, 2), torch.from_numpy(label)[:, None])
    loss, _ = dice_ce(logits, label, np.ones(3, bool), dice_weight=0.5, smooth=1.0)
    assert 2 * loss == pytest.approx(float(expected), rel=1e-5)
