"""What every encoder returns: of images, and of table rows."""

from typing import NamedTuple

import jax


class Features(NamedTuple):
    """Feature maps of a batch of images.

    pyramid: arrays [B,h,w,c], finest first; a decoder reads the strides off the shapes.
    pooled: [B,D], the image as one vector.
    """

    pyramid: tuple[jax.Array, ...]
    pooled: jax.Array


class TableFeatures(NamedTuple):
    """A batch of table rows.

    tokens: [B,T,D]; an encoder that knows no columns gives one token.
    pooled: [B,D], the row as one vector.
    """

    tokens: jax.Array
    pooled: jax.Array
