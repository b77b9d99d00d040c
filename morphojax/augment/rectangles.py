"""Random rectangles, for mixing two images (CutMix, Yun et al. 2019, arXiv:1905.04899)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def rectangles(key: Array, shape: tuple[int, ...], sides: tuple[float, float]) -> Array:
    """bool of shape [batch, height, width]: True inside one random rectangle per image.

    sides: (smallest, largest) side as a fraction of that of the image; both sides are uniform
    between them, in whole pixels, and the rectangle lies inside the image at a uniform place.
    """
    (batch, height, width), (low, high) = shape, sides
    draws = jax.random.uniform(key, (4, batch, 1))

    def between(size: int, side: Array, place: Array) -> Array:
        """bool [batch, size]"""
        length = jnp.round((low + (high - low) * side) * size)
        start = jnp.round(place * (size - length))
        pixel = jnp.arange(size)
        return (pixel >= start) & (pixel < start + length)

    y, x = between(height, draws[0], draws[1]), between(width, draws[2], draws[3])
    return y[:, :, None] & x[:, None, :]
