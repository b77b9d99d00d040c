"""Augmentation of images on the device: one affine matrix and one gather per image.

The random numbers depend only on the key and on the position in the batch, so sharding does not
change the result. Each transform has its own random number, so turning one on or off does not
change the draws of the others.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from morphojax.augment.settings import Augmentation

Array = jax.Array

_OFF = Augmentation()

# The random numbers of an example, from a single generator call: one call for each would cost
# seconds of compilation.
DRAWS = ("probability", "flip_vertical", "flip_horizontal", "rotation", "scale", "shift_y", "shift_x", "crop_area")
DRAWS += ("crop_aspect", "crop_y", "crop_x", "gamma", "brightness", "contrast", "noise_sd")
DRAWS += ("bias_y", "bias_x", "bias_yx", "bias_yy", "bias_xx")


def draw(key: Array, batch: int) -> dict[str, Array]:
    """Name in DRAWS -> uniform numbers in [0, 1), float32 [B]."""
    return dict(zip(DRAWS, jax.random.uniform(key, (len(DRAWS), batch)), strict=True))


def _between(u: Array, low: float, high: float) -> Array:
    return low + (high - low) * u


def _log_between(u: Array, bounds: tuple[float, float]) -> Array:
    return jnp.exp(_between(u, math.log(bounds[0]), math.log(bounds[1])))


def _matrix(rows: list[list[Array | float]], batch: int) -> Array:
    """3 x 3 entries, each a number or an array [B] -> [B, 3, 3]."""
    return jnp.stack([jnp.stack([jnp.broadcast_to(jnp.float32(v), batch) for v in row], -1) for row in rows], -2)


def warp_matrix(draws: Mapping[str, Array], params: Augmentation, height: int, width: int) -> Array:
    """[B, 3, 3]: (y, x, 1) of an output pixel -> input pixel, in pixels from the image centre."""
    batch = draws["rotation"].shape[0]
    flip_y, flip_x = (
        jnp.where(draws[name] < getattr(params, name), -1.0, 1.0) for name in ("flip_vertical", "flip_horizontal")
    )
    flip = _matrix([[flip_y, 0, 0], [0, flip_x, 0], [0, 0, 1]], batch)

    angle = jnp.radians(_between(draws["rotation"], -params.rotation_degrees, params.rotation_degrees))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], batch)

    shrink = 1 / _log_between(draws["scale"], params.scale)
    scale = _matrix([[shrink, 0, 0], [0, shrink, 0], [0, 0, 1]], batch)

    limit = params.translation_fraction
    shift_y, shift_x = (_between(draws[name], -limit, limit) for name in ("shift_y", "shift_x"))
    translation = _matrix([[1, 0, shift_y * height], [0, 1, shift_x * width], [0, 0, 1]], batch)

    side_y, side_x = jnp.ones(batch), jnp.ones(batch)
    if params.crops:
        # Pixels are square, so the side along y is sqrt(area / aspect); a side larger than the
        # image is cut.
        area = _between(draws["crop_area"], *(params.crop or (1.0, 1.0))) * height * width
        aspect = _log_between(draws["crop_aspect"], params.crop_aspect)
        side_y = jnp.minimum(jnp.sqrt(area / aspect) / height, 1.0)
        side_x = jnp.minimum(jnp.sqrt(area * aspect) / width, 1.0)
    corner_y = (draws["crop_y"] - 0.5) * (1 - side_y) * height
    corner_x = (draws["crop_x"] - 0.5) * (1 - side_x) * width
    crop = _matrix([[side_y, 0, corner_y], [0, side_x, corner_x], [0, 0, 1]], batch)

    # Full precision: with TF32 or bf16, the default of accelerators, rounding would shift pixels.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return functools.reduce(product, [flip, rotation, scale, translation, crop])


def _coordinates(matrix: Array, height: int, width: int) -> tuple[Array, Array]:
    """[B, 3, 3] -> y and x in the input, each [B, H, W], at most one (zero) pixel outside."""
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.arange(height)[:, None] - middle_y, jnp.arange(width)[None, :] - middle_x
    m = matrix[:, :, :, None, None]
    input_y = m[:, 0, 0] * y + m[:, 0, 1] * x + m[:, 0, 2] + middle_y
    input_x = m[:, 1, 0] * y + m[:, 1, 1] * x + m[:, 1, 2] + middle_x
    return jnp.clip(input_y, -1, height), jnp.clip(input_x, -1, width)


def _pad(x: Array) -> tuple[Array, int]:
    """[B, N, H, W, C] -> [B, N, (H+3)(W+3), C], zero-padded; and the length of a row."""
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2), (0, 0)))
    return x.reshape(*x.shape[:2], -1, x.shape[-1]), x.shape[3]


# vmap over examples keeps the gather local to a shard. The clipping above keeps the indices in
# bounds.
_take = jax.vmap(lambda x, index: x.at[:, index].get(mode="promise_in_bounds"))


def warp_linear(image: Array, matrix: Array) -> Array:
    """[B, ..., H, W, C] float, [B, 3, 3] -> the warped image, bilinear, zero outside."""
    batch, (height, width, channels) = image.shape[0], image.shape[-3:]
    y, x = _coordinates(matrix, height, width)
    low_y, low_x = jnp.floor(y), jnp.floor(x)
    w_y, w_x = (y - low_y)[:, None, ..., None], (x - low_x)[:, None, ..., None]
    padded, row = _pad(image.reshape(batch, -1, height, width, channels))
    corner = (low_y.astype(jnp.int32) + 1) * row + low_x.astype(jnp.int32) + 1
    top = _take(padded, corner) * (1 - w_x) + _take(padded, corner + 1) * w_x
    bottom = _take(padded, corner + row) * (1 - w_x) + _take(padded, corner + row + 1) * w_x
    return (top * (1 - w_y) + bottom * w_y).reshape(image.shape)


def warp_nearest(label: Array, matrix: Array) -> Array:
    """[B, ..., H, W], [B, 3, 3] -> the warped label, nearest neighbour, zero outside."""
    batch, (height, width) = label.shape[0], label.shape[-2:]
    y, x = _coordinates(matrix, height, width)
    padded, row = _pad(label.reshape(batch, -1, height, width, 1))
    index = (jnp.floor(y + 0.5).astype(jnp.int32) + 1) * row + jnp.floor(x + 0.5).astype(jnp.int32) + 1
    return _take(padded, index).reshape(label.shape)


def _bias_field(draws: Mapping[str, Array], strength: float, height: int, width: int) -> Array:
    """[B, H, W]: exp of a random quadratic within [-strength, strength] (Cauchy-Schwarz)."""
    y, x = jnp.linspace(-1, 1, height)[:, None], jnp.linspace(-1, 1, width)[None, :]
    terms = {"bias_y": y, "bias_x": x, "bias_yx": y * x, "bias_yy": 1.5 * y**2 - 0.5, "bias_xx": 1.5 * x**2 - 0.5}
    weights = {name: 2 * draws[name] - 1 for name in terms}
    largest = jnp.sqrt(len(terms) * sum(w**2 for w in weights.values()))  # every term lies in [-1, 1]
    return jnp.exp(sum((strength * weights[name] / largest)[:, None, None] * term for name, term in terms.items()))


def _recolour(key: Array, draws: Mapping[str, Array], image: Array, params: Augmentation) -> Array:
    """The intensity transforms of `params`, and clipping to [0, 1]."""
    batch, (height, width) = image.shape[0], image.shape[-3:-1]

    def spread(x: Array) -> Array:  # [B] -> [B, 1, ..., 1]
        return x.reshape(batch, *(1,) * (image.ndim - 1))

    if params.bias_field > 0:
        field = _bias_field(draws, params.bias_field, height, width)
        image *= field.reshape(batch, *(1,) * (image.ndim - 4), height, width, 1)
    if params.gamma != (1.0, 1.0):
        # On a CPU four times as fast as jnp.power, which also handles negative bases.
        exponent = spread(_log_between(draws["gamma"], params.gamma))
        image = jnp.where(image > 0, jnp.exp(exponent * jnp.log(jnp.where(image > 0, image, 1.0))), 0.0)
    if params.brightness > 0:
        image *= spread(_between(draws["brightness"], 1 - params.brightness, 1 + params.brightness))
    if params.contrast > 0:
        # About the mean of each slice, so that the padding of a stack does not change its slices.
        mean = jnp.mean(image, axis=(-3, -2, -1), keepdims=True)
        image = mean + (image - mean) * spread(_between(draws["contrast"], 1 - params.contrast, 1 + params.contrast))
    if params.noise_sd > 0:
        image += spread(params.noise_sd * draws["noise_sd"]) * jax.random.normal(key, image.shape)
    return jnp.clip(image, 0, 1)


@functools.partial(jax.jit, static_argnames="params")
def augment(
    key: Array, image: Array, label: Array | None = None, params: Augmentation = _OFF
) -> tuple[Array, Array | None]:
    """Augments a batch. All slices of an example share one draw; only the noise is independent.

    Args:
      key: a key from jax.random.key.
      image: float [B, ..., H, W, C] in [0, 1], with square pixels.
      label: [B, ..., H, W] or None; warped with the matrix of the image, nearest neighbour.
      params: static. Transforms that are off leave the image bit for bit unchanged.

    Returns:
      image (same shape and dtype, zero outside the field of view) and label.

    Raises:
      TypeError: integer image (scale it to [0, 1] first). ValueError: shapes that do not fit.
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"augment takes float images in [0, 1], got {image.dtype}: divide by 255 first")
    if image.ndim < 4 or (label is not None and label.shape != image.shape[:-1]):
        shape = None if label is None else label.shape
        raise ValueError(f"image must be [B, ..., H, W, C] and label [B, ..., H, W], got {image.shape} and {shape}")
    batch, (height, width) = image.shape[0], image.shape[-3:-1]
    draws_key, noise_key = jax.random.split(key)
    draws = draw(draws_key, batch)
    augmented = draws["probability"] < params.probability
    result = image.astype(jnp.float32)
    if params.warps:
        matrix = warp_matrix(draws, params, height, width)
        matrix = jnp.where(augmented[:, None, None], matrix, jnp.eye(3))
        result = warp_linear(result, matrix)
        label = None if label is None else warp_nearest(label, matrix)
    if params.recolours:
        result = _recolour(noise_key, draws, result, params)
    result = jnp.where(augmented.reshape(batch, *(1,) * (image.ndim - 1)), result.astype(image.dtype), image)
    return result, label
