"""The light decoder of SegFormer (Xie et al. 2021, arXiv:2105.15203, section 3.2) for any feature pyramid."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.convolution import Conv
from morphojax.models.layers import Dense, Dtype, film, normalisation


class MLPDecoder(nn.Module):
    """((image [B,H,W,C], *pyramid finest first), train, condition=None) -> features [B,h,w,width], as large as the finest map.

    Every map is projected to `width` channels, brought to the finest one's size (bilinear, pixel centres aligned), and all are
    fused by a linear map, normalisation and ReLU. The image itself is not looked at: it is there because decoders are called alike.
    norm: "batch" as in the paper, or "group". condition: as in UNetDecoder, on the fused map. No dropout.
    """

    width: int = 128
    norm: str = "batch"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: tuple[jax.Array, ...], train: bool, condition: jax.Array | None = None) -> jax.Array:
        maps = pyramid[1:]
        b, height, width, _ = maps[0].shape
        projected = []
        for level, x in enumerate(maps):
            x = Dense(self.width, dtype=self.dtype, name=f"level{level}_project")(x)
            projected.append(jax.image.resize(x, (b, height, width, self.width), "linear"))
        x = Conv(self.width, 1, dtype=self.dtype, name="fuse")(jnp.concatenate(projected, axis=-1))
        x = normalisation(self.norm, self.dtype, "fuse_norm")(x, train)
        return nn.relu(x if condition is None else film(x, condition, "fuse_film"))
