"""A U-Net decoder (Ronneberger et al. 2015, arXiv:1505.04597) for any feature pyramid."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.convolution import Conv
from morphojax.models.layers import Dtype, film, normalisation


def fold(x: jax.Array, factor: int) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/factor),ceil(W/factor),factor*factor*C]: every block of pixels becomes the channels of one.

    Blocks that reach beyond the image are filled with zeros.
    """
    b, h, w, c = x.shape
    small_h, small_w = -(-h // factor), -(-w // factor)
    x = jnp.pad(x, ((0, 0), (0, small_h * factor - h), (0, small_w * factor - w), (0, 0)))
    x = x.reshape(b, small_h, factor, small_w, factor, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, small_h, small_w, factor * factor * c)


def unfold(x: jax.Array, factor: int, height: int, width: int) -> jax.Array:
    """`fold` undone: [B,h,w,factor*factor*C] -> [B,height,width,C] (the sub-pixel shuffle of Shi et al. 2016, arXiv:1609.05158)."""
    b, h, w, channels = x.shape
    c = channels // factor**2
    x = x.reshape(b, h, w, factor, factor, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * factor, w * factor, c)[:, :height, :width]


def upsample(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B,h,w,C] -> [B,height,width,C] by nearest neighbour.

    Where a stride-f convolution led from (height, width) to (h, w), each value is repeated f times and the surplus of
    an odd size is cut at the end: value i then covers f*i .. f*i+f-1, where it came from.
    """
    factors = []
    for small, large in zip(x.shape[1:3], (height, width), strict=True):
        factors.append(max(1, round(large / small)))
    fy, fx = factors
    if x.shape[1:3] != (-(-height // fy), -(-width // fx)):
        return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "nearest")
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, fy, w, fx, c)).reshape(b, h * fy, w * fx, c)
    return x[:, :height, :width]


class UNetDecoder(nn.Module):
    """((image [B,H,W,C], *pyramid finest first), train, condition=None) -> features [B,ceil(H/2),ceil(W/2),widths[0]].

    The raw image is the finest skip, folded to half its size with all that it holds (`fold`); whoever uses the features
    unfolds what it makes of them. On the CPU convolutions of few channels at full size took two thirds of the decoder's
    time, and on ACDC they were no better: docs/results.md. Where the pyramid itself begins at full size, so does the decoder.
    widths: channels of the decoder at each level, finest first, the coarsest map not counted; a shorter pyramid uses
    the first ones. Raises ValueError when there are more levels than widths.
    condition: [B,M]; scales and shifts every channel of every level (FiLM, Perez et al. 2018, arXiv:1709.07871), from no effect at the
    start of training.
    norm: "batch", or "group" (`layers.normalisation`).
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    dtype: Dtype = jnp.float32
    norm: str = "batch"

    @property
    def levels(self):
        parts = ("reduce", "conv1", "norm1", "film", "conv2", "norm2")
        return {f"level{i}_{p}": f"level{i}" for i in range(len(self.widths)) for p in parts}

    @nn.compact
    def __call__(self, pyramid: tuple[jax.Array, ...], train: bool, condition: jax.Array | None = None) -> jax.Array:
        image, *skips, x = pyramid
        finest = (*skips, x)[0]
        image = fold(image, 1 if finest.shape[1:3] == image.shape[1:3] else 2).astype(finest.dtype)
        if skips and skips[0].shape[1:3] == image.shape[1:3]:
            skips[0] = jnp.concatenate([skips[0], image], axis=-1)
        else:
            skips.insert(0, image)
        if len(skips) > len(self.widths):
            raise ValueError(f"the decoder needs {len(skips)} widths for this pyramid, it has {len(self.widths)}")
        for level in reversed(range(len(skips))):
            skip, width = skips[level], self.widths[level]
            # Reduced before it grows: a 1x1 convolution commutes with nearest-neighbour upsampling and costs a quarter.
            x = Conv(width, 1, dtype=self.dtype, name=f"level{level}_reduce")(x)
            x = upsample(x, skip.shape[1], skip.shape[2])
            x = jnp.concatenate([x, skip.astype(self.dtype)], axis=-1)
            for i in (1, 2):
                x = Conv(width, 3, dtype=self.dtype, name=f"level{level}_conv{i}")(x)
                x = normalisation(self.norm, self.dtype, f"level{level}_norm{i}")(x, train)
                if i == 2 and condition is not None:
                    x = film(x, condition, f"level{level}_film")
                x = nn.relu(x)
        return x
