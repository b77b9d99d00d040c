"""Copy-paste: labelled and pseudo-labelled slices exchange a rectangle, in both directions."""

import math

import jax
import jax.numpy as jnp

from morphojax.augment.rectangles import rectangles
from morphojax.objectives.self_training import weighted_dice_ce
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch
from morphojax.tasks.segment.unlabelled.schedule import check


def copy_paste(
    *,
    sides: tuple[float, float] = (0.3, 0.8),
    pseudo_weight: float = 0.5,
    confidence: float = 0.0,
    dice_weight: float = 0.5,
) -> UnlabelledObjective:
    """Bidirectional copy-paste (Bai et al., CVPR 2023, arXiv:2305.00673): the student learns from
    labelled slices with a rectangle of an unlabelled one, and from unlabelled slices with a
    rectangle of a labelled one. Both are augmented first.

    Args:
        sides: smallest and largest side of the rectangle, as a fraction of that of the image.
        pseudo_weight: weight of a pixel with a pseudo-label; a labelled one has 1.
        confidence: pixels of a lower teacher probability do not count.
        dice_weight: of the Dice loss; cross-entropy has the rest.
    """
    sides = (float(sides[0]), float(sides[1]))
    check("sides", sides, 0 < sides[0] <= sides[1] < 1, "two fractions of the image's side, the smaller first")
    check("pseudo_weight", pseudo_weight, 0 < pseudo_weight < math.inf, "a weight above 0")
    check("confidence", confidence, 0 <= confidence <= 1, "a probability, from 0 to 1")
    check("dice_weight", dice_weight, 0 <= dice_weight <= 1, "a weight, from 0 to 1")

    def loss(batch: UnlabelledBatch) -> tuple[jax.Array, dict[str, jax.Array]]:
        labelled = batch.labelled_pixels
        pseudo = batch.augmented_slices(len(labelled.image), "copy_paste", confidence)
        pseudo = pseudo._replace(weight=pseudo_weight * pseudo.weight)
        box = rectangles(batch.key("rectangles"), labelled.label.shape, sides)

        def mix(inside: jax.Array, outside: jax.Array) -> jax.Array:
            return jnp.where(box.reshape(*box.shape, *(1,) * (inside.ndim - 3)), inside, outside)

        one, two = jax.tree.map(mix, labelled, pseudo), jax.tree.map(mix, pseudo, labelled)
        logits, _ = batch.networks.student(jnp.concatenate([one.image, two.image]), train=True)
        losses = [
            weighted_dice_ce(half, mixed.label, mixed.weight, dice_weight)
            for half, mixed in zip(jnp.split(logits, 2), (one, two), strict=True)
        ]
        mean = jax.tree.map(lambda *values: sum(values) / 2, *losses)
        return mean[0], mean[1] | {"confident": batch.confident(confidence)}

    return UnlabelledObjective(loss, ema=True, reads_pseudo_labels=True)
