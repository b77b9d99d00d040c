"""Masked patches of an image predicted from the visible ones.

Pure functions: prediction -> loss, metrics.
"""

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import masked_mean, valid_rows, zero_padding

Array = jax.Array


def patches(image: Array, patch: int) -> Array:
    """[N, H, W, C] -> [N, P, patch * patch * C], patches row by row.

    The order within a patch: rows, columns, channels. Raises ValueError when H or W is not a
    multiple of patch.
    """
    if image.ndim != 4:
        raise ValueError(f"image must be [N, H, W, C], got {image.shape}")
    n, h, w, c = image.shape
    rows, columns = _grid((h, w), patch)
    image = image.reshape(n, rows, patch, columns, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(n, rows * columns, patch * patch * c)


def unpatch(patched: Array, size: tuple[int, int], patch: int) -> Array:
    """[N, P, patch * patch * C] -> [N, H, W, C], the inverse of `patches` for size (H, W).

    Raises ValueError when H or W is not a multiple of patch, or the shape of `patched` does not fit
    such an image.
    """
    rows, columns = _grid(size, patch)
    if patched.ndim != 3 or patched.shape[1] != rows * columns or patched.shape[2] % patch**2:
        raise ValueError(
            f"an image of {size[0]} x {size[1]} is [N, {rows * columns}, {patch**2} * C] in patches of {patch}, "
            f"got {patched.shape}"
        )
    n, _, d = patched.shape
    image = patched.reshape(n, rows, columns, patch, patch, d // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(n, *size, d // patch**2)


def masked_patches(
    prediction: Array,
    image: Array,
    masked: Array,
    patch: int,
    normalise: bool = True,
    valid: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The mean squared error over masked patches (He et al. 2022, arXiv:2111.06377, section 3).

    loss = mean of (prediction - target)^2 over the masked patches of valid images and their D =
    patch * patch * C pixel values. Visible patches do not count.

    Args:
      prediction: [N, P, D], in the order of `patches`; any float type.
      image: [N, H, W, C]; the target, no gradient.
      masked: bool [N, P]; True where the patch was masked for the encoder.
      patch: side of a patch, in pixels.
      normalise: True (the paper's better variant): the target is (pixel - mean) / sqrt(variance +
        1e-6) with the mean and the biased variance of the patch; the target of a constant patch is
        0. False: the pixels.
      valid: bool [N]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar (0 when no patch of a valid image is masked).
      metrics: float32 scalars without gradient. `variance_explained`: 1 - (sum of squared errors) /
        (sum of squared deviations of the targets from their mean), over masked patches. 0: no
        better than the best constant prediction. 0 as well where the targets do not vary.

    Raises:
      ValueError: the shapes do not fit, or H or W is not a multiple of patch.
    """
    valid = valid_rows(valid, len(image))
    pixels = patches(image, patch)
    if prediction.shape != pixels.shape or masked.shape != pixels.shape[:2]:
        raise ValueError(
            f"an image {image.shape} in patches of {patch} takes a prediction {pixels.shape} and masked "
            f"{pixels.shape[:2]}, got {prediction.shape} and {masked.shape}"
        )
    # Mask the difference before squaring: the gradient of a masked square would be 0 * NaN = NaN.
    counted = jnp.broadcast_to((masked.astype(bool) & valid[:, None])[..., None], pixels.shape)
    pixels = zero_padding(pixels.reshape(len(pixels), -1), valid).reshape(pixels.shape)
    target = jax.lax.stop_gradient(_normalise(pixels) if normalise else pixels)
    error = jnp.square(jnp.where(counted, prediction.astype(jnp.float32) - target, 0.0))
    loss = masked_mean(error, counted)
    variance = masked_mean(jnp.square(target - masked_mean(target, counted)), counted)
    explained = jnp.where(variance > 0, 1 - loss / jnp.where(variance > 0, variance, 1.0), 0.0)
    return loss, jax.lax.stop_gradient({"variance_explained": explained})


def _normalise(pixels: Array) -> Array:
    mean = jnp.mean(pixels, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(pixels - mean), axis=-1, keepdims=True)
    return (pixels - mean) * jax.lax.rsqrt(variance + 1e-6)


def _grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    if patch < 1 or any(s < patch or s % patch for s in size):
        raise ValueError(f"an image of {size[0]} x {size[1]} does not divide into patches of {patch} x {patch}")
    return size[0] // patch, size[1] // patch
