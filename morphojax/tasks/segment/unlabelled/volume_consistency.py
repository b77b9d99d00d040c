"""Volume consistency: the predicted masks of a stack must have the volumes that the table knows."""

import jax
import jax.numpy as jnp

from morphojax.objectives import volume
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch
from morphojax.tasks.segment.unlabelled.schedule import check


def volume_consistency(*, huber_delta: float = 0.3) -> UnlabelledObjective:
    """Squared error of log volumes, linear beyond `huber_delta` (see
    `objectives.volume.consistency`).
    """
    check("huber_delta", huber_delta, huber_delta > 0, "an error of log volumes above 0")

    def loss(batch: UnlabelledBatch) -> tuple[jax.Array, dict[str, jax.Array]]:
        foreground = jax.nn.softmax(batch.weak.logits.astype(jnp.float32))[..., 1:]
        predicted = volume.volumes(foreground, batch.slice_mask, batch.voxel_size, batch.valid)
        return volume.consistency(predicted, batch.volume, batch.valid, huber_delta=huber_delta)

    return UnlabelledObjective(loss, whole_stacks=True, volumes=True)
