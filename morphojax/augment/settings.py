"""What may be augmented, and how strongly; and the flips that each imaging plane allows."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from morphojax import anatomy

# (horizontal, vertical). A mirrored short-axis or four-chamber slice shows the right ventricle on
# the wrong side of the left one, which no rotation does. The two-chamber view shows left chambers
# only: mirrored, it exchanges the anterior and the inferior wall, which have the same label.
FLIPS_ALLOWED: Mapping[str, tuple[bool, bool]] = {
    "sax": (False, False),
    "la_2ch": (True, True),
    "la_4ch": (False, False),
}


INTENSITY_FIELDS = ("gamma", "brightness", "contrast", "noise_sd", "bias_field")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random transforms; the fields are the keys of `config.augment`.

    Every default is "off".

    The warp applies, in this order: flips, rotation, scale and translation about the image centre,
    crop. Then the intensity transforms: bias field, gamma, brightness, contrast, noise, and
    clipping to [0, 1].

    Raises:
      ValueError: a field lies outside its range; the message names it. (An unknown field:
        TypeError.)
    """

    rotation_degrees: float = 0.0  # angle uniform in [-r, r]
    scale: tuple[float, float] = (1.0, 1.0)  # magnification of the content, log-uniform
    translation_fraction: float = 0.0  # shift uniform in [-t, t] of the image side, per axis
    crop: tuple[float, float] | None = None  # fraction of the area that is kept and enlarged to full size, uniform
    crop_aspect: tuple[float, float] = (1.0, 1.0)  # width / height of that crop, log-uniform; acts only with crop
    flip_horizontal: float = 0.0  # probability; see `check`
    flip_vertical: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)  # exponent, log-uniform
    brightness: float = 0.0  # factor uniform in [1 - b, 1 + b]
    contrast: float = 0.0  # factor uniform in [1 - c, 1 + c], about the mean of each slice
    noise_sd: float = 0.0  # Gaussian, of standard deviation uniform in [0, noise_sd], white range = 1
    bias_field: float = 0.0  # log of the largest gain; multiplicative, quadratic in the position
    probability: float = 1.0  # that an example is augmented at all

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
            raise ValueError(f"augmentation crop is a fraction of the area, at most 1, got {self.crop}")
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
        """Any geometric transform is on."""
        off = (0.0, (1.0, 1.0), 0.0, 0.0, 0.0)
        now = (self.rotation_degrees, self.scale, self.translation_fraction, self.flip_horizontal, self.flip_vertical)
        return now != off or self.crops

    @property
    def crops(self) -> bool:
        return self.crop not in (None, (1.0, 1.0))

    @property
    def recolours(self) -> bool:
        """Any intensity transform is on."""
        off = ((1.0, 1.0), 0.0, 0.0, 0.0, 0.0)
        return (self.gamma, self.brightness, self.contrast, self.noise_sd, self.bias_field) != off

    @property
    def geometric(self) -> "Augmentation":
        """The geometric transforms only, with the same probability.

        With the same key, `photometric` after `geometric` equals the full augmentation up to float
        rounding. For several views with the same geometry, apply `geometric` with one key to all
        views and `photometric` with a key for each.
        """
        return self._off(INTENSITY_FIELDS)

    @property
    def photometric(self) -> "Augmentation":
        """The intensity transforms only, with the same probability."""
        return self._off({field.name for field in dataclasses.fields(self)} - {*INTENSITY_FIELDS, "probability"})

    def _off(self, names: Collection[str]) -> "Augmentation":
        off = {field.name: field.default for field in dataclasses.fields(self) if field.name in names}
        return dataclasses.replace(self, **off)


def check(planes: Collection[str], params: Augmentation, allow_unanatomical: bool = False) -> None:
    """Raises ValueError for a flip that FLIPS_ALLOWED forbids, unless allow_unanatomical."""
    for plane in planes:
        if plane not in FLIPS_ALLOWED:
            raise ValueError(f"unknown plane {plane!r}; planes are {', '.join(anatomy.PLANES)}")
        for allowed, name in zip(FLIPS_ALLOWED[plane], ("flip_horizontal", "flip_vertical"), strict=True):
            if getattr(params, name) > 0 and not allowed and not allow_unanatomical:
                raise ValueError(
                    f"augmentation {name}={getattr(params, name)} mirrors the heart, which is anatomically impossible in "
                    f"plane {plane}: set it to 0, or set allow_unanatomical=True to reproduce a published recipe"
                )
