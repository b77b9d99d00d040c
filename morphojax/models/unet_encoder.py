"""The contracting path of a U-Net (Ronneberger et al. 2015, arXiv:1505.04597), normalised, as an
image encoder.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.features import Features
from morphojax.models.layers import Dtype, conv, normalisation
from morphojax.models.unet import space_to_depth


class UNetStage(nn.Module):
    """[B,H,W,C] -> [B,H,W,width]: twice a 3x3 convolution, normalisation and ReLU."""

    width: int
    norm: str = "batch"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in (1, 2):
            x = conv(self.width, 3, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(normalisation(self.norm, self.dtype, f"norm{i}")(x, train))
        return x


def halve(x: jax.Array) -> jax.Array:
    """Maximum of every 2x2 pixels: [B,H,W,C] -> [B,ceil(H/2),ceil(W/2),C]; windows at an odd end
    are smaller.
    """
    return nn.max_pool(x, (2, 2), (2, 2), [(0, side % 2) for side in x.shape[1:3]])


class UNetEncoder(nn.Module):
    """Image [B,H,W,C], any C and any size -> Features at strides 1, 2, 4, 8, 16 times `stem`
    (pooled: mean of the last map, float32).

    width: channels of the first stage; they double with every stage, up to `cap`. Stages are joined
    by `halve`.
    stem: 1, or the factor by which the image is folded into channels first (`unet.space_to_depth`):
    with 2 the whole network works at half the image's size.
    norm: "batch", or "group" (`layers.normalisation`).
    remat: compute stages again for the gradient instead of keeping their activations.
    """

    width: int = 32
    stages: int = 5
    cap: int = 512
    stem: int = 1
    norm: str = "batch"
    remat: bool = False
    dtype: Dtype = jnp.float32

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule -> depth level, from input to output."""
        return {f"stage{i}": f"stage{i}" for i in range(1, self.stages + 1)}

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        make_stage = nn.remat(UNetStage, static_argnums=(2,)) if self.remat else UNetStage
        x, pyramid = space_to_depth(image, self.stem), []
        for stage in range(self.stages):
            if stage:
                x = halve(x)
            width = min(self.width * 2**stage, self.cap)
            x = make_stage(width, self.norm, self.dtype, name=f"stage{stage + 1}")(x, train)
            pyramid.append(x)
        return Features(tuple(pyramid), x.mean((1, 2), dtype=jnp.float32))
