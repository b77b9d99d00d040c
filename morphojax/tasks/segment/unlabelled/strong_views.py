"""Strong views: the student learns the teacher's pseudo-labels on strongly augmented slices."""

import jax
import jax.numpy as jnp

from morphojax.objectives.self_training import weighted_dice_ce
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch
from morphojax.tasks.segment.unlabelled.schedule import check


def strong_views(
    *, views: int = 1, slices: int = 12, confidence: float = 0.0, dice_weight: float = 0.5
) -> UnlabelledObjective:
    """Cross-entropy and Dice to pseudo-labels of the plain image: FixMatch (Sohn et al. 2020,
    arXiv:2001.07685), with several views as in UniMatch (Yang et al. 2023, arXiv:2208.09910).

    Args:
        views: augmented copies of every slice.
        slices: drawn from the unlabelled images of a step.
        confidence: pixels of a lower teacher probability do not count.
        dice_weight: of the Dice loss; cross-entropy has the rest.
    """
    check("views", views, views >= 1, "a number of views, 1 or more")
    check("slices", slices, slices >= 1, "a number of slices, 1 or more")
    check("confidence", confidence, 0 <= confidence <= 1, "a probability, from 0 to 1")
    check("dice_weight", dice_weight, 0 <= dice_weight <= 1, "a weight, from 0 to 1")

    def loss(batch: UnlabelledBatch) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = [batch.augmented_slices(slices, f"strong_view{i}", confidence) for i in range(views)]
        image, label, weight = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *seen)
        logits, _ = batch.networks.student(image, train=True)
        value, metrics = weighted_dice_ce(logits, label, weight, dice_weight)
        agrees = jnp.sum(weight * (logits.argmax(-1) == label)) / jnp.maximum(jnp.sum(weight), 1)
        return value, metrics | {"confident": batch.confident(confidence), "agreement": agrees}

    return UnlabelledObjective(loss, ema=True, reads_pseudo_labels=True)
