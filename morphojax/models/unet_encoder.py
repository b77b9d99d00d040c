"""The contracting path of a U-Net (Ronneberger et al. 2015, arXiv:1505.04597), normalised, as an image encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.convolution import Conv
from morphojax.models.features import Features
from morphojax.models.layers import Dtype, normalisation
from morphojax.models.unet import fold


class UNetStage(nn.Module):
    """[B,H,W,C] -> [B,H,W,width]: twice a 3x3 convolution, normalisation and ReLU."""

    width: int
    norm: str = "batch"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in (1, 2):
            x = Conv(self.width, 3, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(normalisation(self.norm, self.dtype, f"norm{i}")(x, train))
        return x


def halve(x: jax.Array) -> jax.Array:
    """Maximum of every 2x2 pixels, x not negative: [B,H,W,C] -> [B,ceil(H/2),ceil(W/2),C]. The gradient goes to the first one."""
    x = fold(x, 2)  # the zeros that fill an odd side never exceed what is there
    x = x.reshape(*x.shape[:3], 4, -1)
    # Not x.max(3): its gradient looks for values equal to the maximum, and XLA may have computed them anew with another rounding.
    first = x.argmax(3, keepdims=True)
    return jnp.where(jnp.arange(4)[:, None] == first, x, 0).sum(3)


class UNetEncoder(nn.Module):
    """Image [B,H,W,C], any C and any size -> Features at strides 1, 2, 4, 8, 16 (pooled: mean of the last map, float32).

    width is the number of channels at full size; it doubles with every level, up to `cap`. Between levels the maximum of every 2x2
    pixels, of fewer at the end of an odd side.
    norm: "batch", or "group" (`layers.normalisation`). remat: levels are computed again for the gradient instead of kept.
    """

    width: int = 32
    levels: int = 5
    cap: int = 512
    norm: str = "batch"
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        stage = nn.remat(UNetStage, static_argnums=(2,)) if self.remat else UNetStage
        x, pyramid = image, []
        for level in range(self.levels):
            if level:
                x = halve(x)
            width = min(self.width * 2**level, self.cap)
            x = stage(width, self.norm, self.dtype, name=f"stage{level + 1}")(x, train)
            pyramid.append(x)
        return Features(tuple(pyramid), x.mean((1, 2), dtype=jnp.float32))
