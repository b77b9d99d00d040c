"""Augmentation on the device: images (`augment`) and table rows (`corrupt`, `mask_columns`)."""

from morphojax.augment.images import augment, draw, warp_linear, warp_matrix, warp_nearest
from morphojax.augment.settings import FLIPS_ALLOWED, Augmentation, check
from morphojax.augment.tables import corrupt, mask_columns

__all__ = [
    "FLIPS_ALLOWED",
    "Augmentation",
    "augment",
    "check",
    "corrupt",
    "draw",
    "mask_columns",
    "warp_linear",
    "warp_matrix",
    "warp_nearest",
]
