"""Pseudo-labels: the teacher's classes, in stacks whose predicted volumes agree with the table."""

import math

import jax
import jax.numpy as jnp

from morphojax.objectives import volume
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch
from morphojax.tasks.segment.unlabelled.schedule import check


def agreeing_stacks(*, tolerance: float = 0.15, confidence: float = 0.9) -> UnlabelledObjective:
    """Cross-entropy of the student's weak view to the teacher's confident pixels.

    Args:
        tolerance: largest relative error of a predicted volume; a stack beyond it gives no
            pseudo-label.
        confidence: probability that a pixel's class must reach.
    """
    check("tolerance", tolerance, 0 <= tolerance < math.inf, "a relative error, 0 or more")
    check("confidence", confidence, 0 <= confidence <= 1, "a probability, from 0 to 1")

    def loss(batch: UnlabelledBatch) -> tuple[jax.Array, dict[str, jax.Array]]:
        arrays = (batch.teacher_probabilities, batch.slice_mask, batch.voxel_size, batch.volume)
        labels, weight, kept = volume.pseudo_labels(*arrays, tolerance, confidence, batch.valid)
        # One map holds label and weight, so that both move alike: 0 is "do not learn from this
        # pixel".
        moved = batch.to_weak(jnp.where(weight > 0, labels + 1, 0))
        counted = (moved > 0).astype(jnp.float32)
        value, agreement = volume.pseudo_cross_entropy(batch.weak.logits, jnp.maximum(moved - 1, 0), counted)
        return value, kept | agreement

    return UnlabelledObjective(loss, whole_stacks=True, volumes=True)
