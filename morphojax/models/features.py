"""What every image encoder returns."""

from typing import NamedTuple

import jax


class Features(NamedTuple):
    """Feature maps of a batch of images.

    pyramid: arrays [B,h,w,c], finest first; a decoder reads the strides off the shapes.
    pooled: [B,D], the image as one vector.
    """

    pyramid: tuple[jax.Array, ...]
    pooled: jax.Array
