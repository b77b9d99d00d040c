"""Augmentation on the device: jitted, batched, one draw per example, one affine matrix and one gather per image.

Everything is a function of a key and of the example's place in the batch, so the result does not depend on how the
batch is sharded; and each transform has a number of its own, so turning one on or off leaves the draws of the others.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from morphojax import anatomy

Array = jax.Array

# (horizontal, vertical). A body has no mirror image: in a mirrored short-axis or four-chamber slice the right ventricle
# lies on the left, as no patient's does (turned by a rotation it stays on its side). The two-chamber view shows left
# chambers alone; mirrored, it exchanges the anterior and inferior wall, which carry the same label.
FLIPS_ALLOWED: Mapping[str, tuple[bool, bool]] = {
    "sax": (False, False),
    "la_2ch": (True, True),
    "la_4ch": (False, False),
}


INTENSITY_FIELDS = ("gamma", "brightness", "contrast", "noise_sd", "bias_field")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may be drawn. Every default is "off"; the fields are plain values, so that a config's keys go straight in.

    The warp applies, in this order: flips, rotation, scale and translation about the image centre, crop. Then, on
    intensities: bias field, gamma, brightness, contrast, noise, and clipping to [0, 1].

    Raises:
      ValueError: a field lies outside its range; the message names it. (An unknown field is Python's own TypeError.)
    """

    rotation_degrees: float = 0.0  # angle uniform in [-r, r]
    scale: tuple[float, float] = (1.0, 1.0)  # magnification of the content, log-uniform
    translation_fraction: float = 0.0  # shift uniform in [-t, t] of the image side, per axis
    crop: tuple[float, float] | None = None  # share of the area that is kept and blown up to full size, uniform
    crop_aspect: tuple[float, float] = (1.0, 1.0)  # width / height of that crop, log-uniform; acts only with crop
    flip_horizontal: float = 0.0  # probability; see `check`
    flip_vertical: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)  # exponent, log-uniform
    brightness: float = 0.0  # factor uniform in [1 - b, 1 + b]
    contrast: float = 0.0  # factor uniform in [1 - c, 1 + c], about the mean of each slice
    noise_sd: float = 0.0  # Gaussian, of standard deviation uniform in [0, noise_sd], white range = 1
    bias_field: float = 0.0  # log of the largest gain a field may reach; quadratic in the position, multiplicative
    probability: float = 1.0  # that an example is touched at all

    def __post_init__(self):
        for name in ("scale", "crop", "crop_aspect", "gamma"):
            value = getattr(self, name)
            if value is None and name == "crop":
                continue
            low, high = value
            object.__setattr__(self, name, (float(low), float(high)))  # hashable, whatever sequence a config gives
            if not 0 < low <= high < math.inf:
                raise ValueError(f"augmentation {name} must be (low, high) with 0 < low <= high, got {value}")
        if self.crop is not None and self.crop[1] > 1:
            raise ValueError(f"augmentation crop is a share of the area, at most 1, got {self.crop}")
        limits = {"rotation_degrees": 180, "translation_fraction": 1, "noise_sd": math.inf, "bias_field": math.inf}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) or value is None:
                continue
            limit = limits.get(field.name, 1)
            if not 0 <= value <= limit:
                raise ValueError(f"augmentation {field.name} must lie between 0 and {limit}, got {value}")

    @property
    def warps(self) -> bool:
        off = (0.0, (1.0, 1.0), 0.0, 0.0, 0.0)
        now = (self.rotation_degrees, self.scale, self.translation_fraction, self.flip_horizontal, self.flip_vertical)
        return now != off or self.crops

    @property
    def crops(self) -> bool:
        return self.crop not in (None, (1.0, 1.0))

    @property
    def recolours(self) -> bool:
        off = ((1.0, 1.0), 0.0, 0.0, 0.0, 0.0)
        return (self.gamma, self.brightness, self.contrast, self.noise_sd, self.bias_field) != off

    @property
    def geometric(self) -> "Augmentation":
        """The warp alone, with the same probability.

        Under one key, `photometric` after `geometric` is the whole, up to float rounding. Views of one geometry are
        `geometric` under one key for all, then `photometric` under a key for each.
        """
        return self._off(INTENSITY_FIELDS)

    @property
    def photometric(self) -> "Augmentation":
        """The changes of intensity alone, with the same probability."""
        return self._off({field.name for field in dataclasses.fields(self)} - {*INTENSITY_FIELDS, "probability"})

    def _off(self, names: Collection[str]) -> "Augmentation":
        off = {field.name: field.default for field in dataclasses.fields(self) if field.name in names}
        return dataclasses.replace(self, **off)


def check(planes: Collection[str], params: Augmentation, allow_unanatomical: bool = False) -> None:
    """Raises ValueError when `params` asks for a flip that the anatomy of a plane does not allow, unless said out loud."""
    for plane in planes:
        if plane not in FLIPS_ALLOWED:
            raise ValueError(f"unknown plane {plane!r}; planes are {', '.join(anatomy.PLANES)}")
        for allowed, name in zip(FLIPS_ALLOWED[plane], ("flip_horizontal", "flip_vertical"), strict=True):
            if getattr(params, name) > 0 and not allowed and not allow_unanatomical:
                raise ValueError(
                    f"augmentation {name}={getattr(params, name)} mirrors the heart, and no heart in plane {plane} is "
                    "mirrored: set it to 0, or set allow_unanatomical=True to repeat a recipe that does so"
                )


# The numbers an example draws, in one go: a generator call for each would cost seconds of compilation.
DRAWS = ("probability", "flip_vertical", "flip_horizontal", "rotation", "scale", "shift_y", "shift_x", "crop_area")
DRAWS += ("crop_aspect", "crop_y", "crop_x", "gamma", "brightness", "contrast", "noise_sd")
DRAWS += ("bias_y", "bias_x", "bias_yx", "bias_yy", "bias_xx")


def draw(key: Array, batch: int) -> dict[str, Array]:
    """Name of a draw -> uniform numbers in [0, 1), float32 [B]."""
    return dict(zip(DRAWS, jax.random.uniform(key, (len(DRAWS), batch)), strict=True))


def _between(u: Array, low: float, high: float) -> Array:
    return low + (high - low) * u


def _log_between(u: Array, bounds: tuple[float, float]) -> Array:
    return jnp.exp(_between(u, math.log(bounds[0]), math.log(bounds[1])))


def _matrix(rows: list[list[Array | float]], batch: int) -> Array:
    """3 x 3 entries, each a number or an array [B] -> [B, 3, 3]."""
    return jnp.stack([jnp.stack([jnp.broadcast_to(jnp.float32(v), batch) for v in row], -1) for row in rows], -2)


def warp_matrix(draws: Mapping[str, Array], params: Augmentation, height: int, width: int) -> Array:
    """[B, 3, 3], from (y, x, 1) of an output pixel to that of the input, both in pixels from the image centre."""
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

    reach = params.translation_fraction
    shift_y, shift_x = (_between(draws[name], -reach, reach) for name in ("shift_y", "shift_x"))
    translation = _matrix([[1, 0, shift_y * height], [0, 1, shift_x * width], [0, 0, 1]], batch)

    side_y, side_x = jnp.ones(batch), jnp.ones(batch)
    if params.crops:
        # Pixels are square, so the side along y is sqrt(area / aspect); a side that would not fit is cut.
        area = _between(draws["crop_area"], *(params.crop or (1.0, 1.0))) * height * width
        aspect = _log_between(draws["crop_aspect"], params.crop_aspect)
        side_y = jnp.minimum(jnp.sqrt(area / aspect) / height, 1.0)
        side_x = jnp.minimum(jnp.sqrt(area * aspect) / width, 1.0)
    corner_y = (draws["crop_y"] - 0.5) * (1 - side_y) * height
    corner_x = (draws["crop_x"] - 0.5) * (1 - side_x) * width
    crop = _matrix([[side_y, 0, corner_y], [0, side_x, corner_x], [0, 0, 1]], batch)

    # Full precision: rounding to TF32 or bf16, an accelerator's default, would move pixels.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return functools.reduce(product, [flip, rotation, scale, translation, crop])


def _coordinates(matrix: Array, height: int, width: int) -> tuple[Array, Array]:
    """[B, 3, 3] -> y and x in the input, [B, H, W], clipped to one pixel outside, where all is zero."""
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.arange(height)[:, None] - middle_y, jnp.arange(width)[None, :] - middle_x
    m = matrix[:, :, :, None, None]
    at_y = m[:, 0, 0] * y + m[:, 0, 1] * x + m[:, 0, 2] + middle_y
    at_x = m[:, 1, 0] * y + m[:, 1, 1] * x + m[:, 1, 2] + middle_x
    return jnp.clip(at_y, -1, height), jnp.clip(at_x, -1, width)


def _pad(x: Array) -> tuple[Array, int]:
    """[B, N, H, W, C] -> [B, N, (H+3)(W+3), C] in a frame of zeros (1 before, 2 after), and the length of a row."""
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2), (0, 0)))
    return x.reshape(*x.shape[:2], -1, x.shape[-1]), x.shape[3]


# vmapped over examples, the gather stays local to a shard; indices are in bounds by the clipping above.
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
    """[B, ..., H, W] of any type, [B, 3, 3] -> the warped label, nearest pixel, zero (background) outside."""
    batch, (height, width) = label.shape[0], label.shape[-2:]
    y, x = _coordinates(matrix, height, width)
    padded, row = _pad(label.reshape(batch, -1, height, width, 1))
    index = (jnp.floor(y + 0.5).astype(jnp.int32) + 1) * row + jnp.floor(x + 0.5).astype(jnp.int32) + 1
    return _take(padded, index).reshape(label.shape)


def _bias_field(draws: Mapping[str, Array], strength: float, height: int, width: int) -> Array:
    """[B, H, W], exp of a random quadratic whose absolute value is at most `strength` (by Cauchy-Schwarz)."""
    y, x = jnp.linspace(-1, 1, height)[:, None], jnp.linspace(-1, 1, width)[None, :]
    terms = {"bias_y": y, "bias_x": x, "bias_yx": y * x, "bias_yy": 1.5 * y**2 - 0.5, "bias_xx": 1.5 * x**2 - 0.5}
    weights = {name: 2 * draws[name] - 1 for name in terms}
    largest = jnp.sqrt(len(terms) * sum(w**2 for w in weights.values()))  # every term lies within [-1, 1]
    return jnp.exp(sum((strength * weights[name] / largest)[:, None, None] * term for name, term in terms.items()))


def _recolour(key: Array, draws: Mapping[str, Array], image: Array, params: Augmentation) -> Array:
    batch, (height, width) = image.shape[0], image.shape[-3:-1]

    def spread(x: Array) -> Array:  # [B] -> [B, 1, ..., 1]
        return x.reshape(batch, *(1,) * (image.ndim - 1))

    if params.bias_field > 0:
        field = _bias_field(draws, params.bias_field, height, width)
        image *= field.reshape(batch, *(1,) * (image.ndim - 4), height, width, 1)
    if params.gamma != (1.0, 1.0):
        # Four times as fast on a CPU as jnp.power, which also serves negative bases.
        exponent = spread(_log_between(draws["gamma"], params.gamma))
        image = jnp.where(image > 0, jnp.exp(exponent * jnp.log(jnp.where(image > 0, image, 1.0))), 0.0)
    if params.brightness > 0:
        image *= spread(_between(draws["brightness"], 1 - params.brightness, 1 + params.brightness))
    if params.contrast > 0:
        # About each slice's own mean, so that slices which pad a stack have no say in the others.
        mean = jnp.mean(image, axis=(-3, -2, -1), keepdims=True)
        image = mean + (image - mean) * spread(_between(draws["contrast"], 1 - params.contrast, 1 + params.contrast))
    if params.noise_sd > 0:
        image += spread(params.noise_sd * draws["noise_sd"]) * jax.random.normal(key, image.shape)
    return jnp.clip(image, 0, 1)


@functools.partial(jax.jit, static_argnames="params")
def augment(
    key: Array, image: Array, label: Array | None = None, params: Augmentation = Augmentation()
) -> tuple[Array, Array | None]:
    """One draw per example, shared by all that the example holds (its slices move together); noise is independent.

    Args:
      key: a key from jax.random.key.
      image: float [B, ..., H, W, C] in [0, 1], with square pixels.
      label: [B, ..., H, W], the image's shape without channels, or None. It gets the image's matrix, nearest pixel.
      params: static; what is off costs nothing and leaves the image bit for bit as it was.

    Returns:
      image (the same shape and type, zero outside the field of view) and label.

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
    touched = draws["probability"] < params.probability
    result = image.astype(jnp.float32)
    if params.warps:
        matrix = warp_matrix(draws, params, height, width)
        matrix = jnp.where(touched[:, None, None], matrix, jnp.eye(3))
        result = warp_linear(result, matrix)
        label = None if label is None else warp_nearest(label, matrix)
    if params.recolours:
        result = _recolour(noise_key, draws, result, params)
    result = jnp.where(touched.reshape(batch, *(1,) * (image.ndim - 1)), result.astype(image.dtype), image)
    return result, label


def _choose(key: Array, shape: tuple[int, int], count: int) -> Array:
    """bool [B, F]: exactly `count` of each row, every choice as likely as any other."""
    # The largest of random numbers, not those above a threshold: equal numbers would give a field too many.
    _, index = jax.lax.top_k(jax.random.uniform(key, shape), count)
    return jax.vmap(lambda i: jnp.zeros(shape[1], bool).at[i].set(True))(index)


@functools.partial(jax.jit, static_argnames=("shape", "rate"))
def mask_columns(key: Array, shape: tuple[int, int], rate: float) -> Array:
    """Which columns of each row to mask: bool [B, F], True = masked, drawn anew for each row.

    Exactly max(1, round(rate * F)) of each row (Python's round: halves to even), and never all of them unless F = 1.

    Args:
      shape: (B, F). rate: share of columns, within (0, 1). Both static.

    Raises:
      ValueError: rate lies outside (0, 1), or there is no column.
    """
    fields = shape[1]
    if not 0 < rate < 1:
        raise ValueError(f"the mask rate must lie within (0, 1), got {rate}")
    if fields == 0:
        raise ValueError("mask_columns needs at least one column")
    return _choose(key, shape, max(1, min(round(rate * fields), fields - 1)))


@functools.partial(jax.jit, static_argnames="rate")
def corrupt(
    key: Array, values: Array, missing: Array, marginal: Array, marginal_missing: Array, rate: float
) -> tuple[Array, Array]:
    """Tabular corruption: in each row, exactly int(rate * F) fields, drawn anew, get another subject's entry.

    Each corrupted field takes its value from a row of its own, uniform over `marginal`: the field's empirical marginal
    (SCARF: Bahri et al., ICLR 2022). Whether the entry was missing travels with it.

    Args:
      values, missing: [B, F], float and bool. marginal, marginal_missing: [N, F], the training rows.
      rate: share of fields, in [0, 1]; static.

    Raises:
      ValueError: the shapes do not fit, there is no marginal row, or rate lies outside [0, 1].
    """
    batch, fields = values.shape
    rows = marginal.shape[0]
    if not 0 <= rate <= 1:
        raise ValueError(f"corruption rate must lie in [0, 1], got {rate}")
    if missing.shape != values.shape or marginal.shape != (rows, fields) or marginal_missing.shape != marginal.shape:
        shapes = [x.shape for x in (values, missing, marginal, marginal_missing)]
        raise ValueError(f"corrupt takes values and missing [B, F], marginal and its missing [N, F], got {shapes}")
    if rows == 0:
        raise ValueError("corrupt needs at least one training row to draw from")
    if int(rate * fields) == 0:
        return values, missing
    fields_key, rows_key = jax.random.split(key)
    chosen = _choose(fields_key, (batch, fields), int(rate * fields))
    source = jax.random.randint(rows_key, (batch, fields), 0, rows)
    field = jnp.arange(fields)
    return (
        jnp.where(chosen, marginal[source, field].astype(values.dtype), values),
        jnp.where(chosen, marginal_missing[source, field], missing),
    )
