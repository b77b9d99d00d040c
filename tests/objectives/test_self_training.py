"""The weighted loss of pseudo-labels against a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives.segmentation import dice_ce
from morphojax.objectives.self_training import weighted_dice_ce
from tests.objectives import checks

RNG = np.random.default_rng(0)


def slices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of four classes, of which the last does not occur; labels; weights, some of them 0."""
    logits = RNG.normal(0, 2, (3, 5, 6, 4)).astype(np.float32)
    weight = RNG.choice([0.0, 0.5, 1.0], (3, 5, 6)).astype(np.float32)
    return logits, RNG.integers(0, 3, (3, 5, 6)), weight


def by_loop(logits: np.ndarray, label: np.ndarray, weight: np.ndarray, smooth: float) -> tuple[float, float]:
    """Dice loss and cross-entropy, pixel by pixel."""
    entropy, total, classes = 0.0, 0.0, logits.shape[-1]
    overlap, predicted, size = np.zeros((3, classes))
    for place in np.ndindex(label.shape):
        z = logits[place].astype(float)
        p = np.exp(z) / np.exp(z).sum()
        c, w = label[place], float(weight[place])
        entropy, total = entropy - w * np.log(p[c]), total + w
        predicted += w * p
        overlap[c] += w * p[c]
        size[c] += w
    dice = [(2 * overlap[c] + smooth) / (predicted[c] + size[c] + smooth) for c in range(1, classes) if size[c]]
    return 1 - float(np.mean(dice)), entropy / total


def make_case() -> checks.Case:
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (8, 3, 4, 3)).astype(np.float32)
    weight = random.choice([0.0, 0.5, 1.0], (8, 3, 4)).astype(np.float32)
    label = random.integers(0, 3, (8, 3, 4)).astype(np.int32)

    def reference(logits: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
        return float(np.mean(by_loop(logits, label, weight, 1.0)))

    return checks.Case(
        "weighted_dice_ce",
        lambda logits, label, weight: weighted_dice_ce(logits, label, weight)[0],
        reference,
        {"logits": logits},
        {"label": label, "weight": weight},
    )


CASES = [make_case()]


@pytest.mark.parametrize("smooth", [1.0, 3.0])
def test_equals_a_loop_over_pixels(smooth: float) -> None:
    logits, label, weight = slices()
    loss, metrics = weighted_dice_ce(logits, label, weight, dice_weight=0.3, smooth=smooth)
    dice, entropy = by_loop(logits, label, weight, smooth)
    assert float(metrics["loss_dice"]) == pytest.approx(dice, rel=1e-5)
    assert float(metrics["loss_cross_entropy"]) == pytest.approx(entropy, rel=1e-5)
    assert float(loss) == pytest.approx(0.3 * dice + 0.7 * entropy, rel=1e-5)


def test_with_equal_weights_it_is_the_supervised_loss() -> None:
    logits, label, _ = slices()
    expected, _ = dice_ce(jnp.asarray(logits), jnp.asarray(label), jnp.ones(3, bool))
    assert float(weighted_dice_ce(logits, label, np.full(label.shape, 1.0))[0]) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_pixels_of_weight_0_have_no_influence() -> None:
    logits, label, weight = slices()
    gradient = np.asarray(jax.grad(lambda z: weighted_dice_ce(z, label, weight)[0])(logits))
    assert not gradient[weight == 0].any() and gradient[weight > 0].any(axis=-1).all()
    spoilt = np.where(weight[..., None] > 0, logits, np.nan)
    assert float(weighted_dice_ce(spoilt, label, weight)[0]) == float(weighted_dice_ce(logits, label, weight)[0])


def test_no_weight_at_all_is_no_loss() -> None:
    logits, label, weight = slices()
    assert float(weighted_dice_ce(logits, label, 0 * weight)[0]) == 0


def test_shapes_must_fit() -> None:
    logits, label, weight = slices()
    with pytest.raises(ValueError, match="label and weight must be"):
        weighted_dice_ce(logits, label, weight[:2])
