"""The outputs of image encoders and of table encoders."""

from typing import NamedTuple

import jax


class Features(NamedTuple):
    """Feature maps of a batch of images.

    pyramid: arrays [B,h,w,c], finest first; a decoder computes the strides from the shapes.
    pooled: [B,D], one vector per image.
    """

    pyramid: tuple[jax.Array, ...]
    pooled: jax.Array


class TableFeatures(NamedTuple):
    """Features of a batch of table rows.

    tokens: [B,T,D]; an encoder without column tokens gives one token.
    pooled: [B,D], one vector per row.
    """

    tokens: jax.Array
    pooled: jax.Array
