"""Entropy minimisation: predictions on unlabelled images should be confident."""

import jax

from morphojax.objectives import volume
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch


def entropy() -> UnlabelledObjective:
    """Mean entropy of the student's pixels on the weak view (Grandvalet and Bengio 2004)."""

    def loss(batch: UnlabelledBatch) -> tuple[jax.Array, dict[str, jax.Array]]:
        return volume.entropy(batch.weak.logits, batch.valid_slices)

    return UnlabelledObjective(loss)
