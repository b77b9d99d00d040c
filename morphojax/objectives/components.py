"""Connected components on the device."""

import jax
import jax.numpy as jnp

Array = jax.Array


def largest_components(labels: Array, classes: int) -> Array:
    """Integer labels [B, K, H, W] -> the same, without all but the largest component of each class
    in each stack; the rest becomes background (0).

    Voxels of a component share a face, within the slice or with the next one. Of components of one
    size the one with the last voxel is kept. classes: with the background.
    """
    kept = [largest_component(labels == c) * c for c in range(1, classes)]
    return sum(kept, jnp.zeros_like(labels)).astype(labels.dtype)


def largest_component(mask: Array) -> Array:
    """bool [B, K, H, W] -> bool, the largest component of each stack.

    Every voxel takes the largest number among its neighbours, and then the number that the voxel of
    that number has (pointer jumping), until nothing changes: about as many rounds as the logarithm
    of the longest path.
    """
    batch, voxels = len(mask), mask[0].size
    numbers = jnp.where(mask, jnp.arange(1, voxels + 1).reshape(mask.shape[1:]), 0)

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        before, _ = carry
        after = before
        for axis in (1, 2, 3):
            pad = [(0, 0)] * 4
            pad[axis] = (1, 1)
            padded = jnp.pad(before, pad)
            size = before.shape[axis]
            for first in (0, 2):
                after = jnp.maximum(after, jax.lax.slice_in_dim(padded, first, first + size, axis=axis))
        after = jnp.where(mask, after, 0).reshape(batch, -1)
        table = jnp.pad(after, ((0, 0), (1, 0)))
        after = jnp.take_along_axis(table, after, axis=1).reshape(mask.shape)
        return after, jnp.any(after != before)

    components, _ = jax.lax.while_loop(lambda carry: carry[1], spread, (numbers, jnp.bool_(True)))
    rows = jnp.arange(batch)[:, None]
    sizes = jnp.zeros((batch, voxels + 1), jnp.int32).at[rows, components.reshape(batch, -1)].add(1)
    sizes = sizes.at[:, 0].set(0)
    # The root of a component is its voxel of the largest number.
    largest = voxels - jnp.argmax(sizes[:, ::-1], axis=1)
    return mask & (components == largest[:, None, None, None])
