"""A U-Net decoder (Ronneberger et al. 2015, arXiv:1505.04597) for any feature pyramid."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import BatchNorm, Conv, Dtype


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
    """((image [B,H,W,C], *pyramid finest first), train) -> features [B,H,W,widths[0]].

    The raw image is the finest skip. widths: channels of the decoder at each level, finest first, the coarsest map not
    counted; a shorter pyramid uses the first ones. Full resolution is where the time goes, hence few channels there.
    Raises ValueError when the pyramid has more levels than there are widths.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: tuple[jax.Array, ...], train: bool) -> jax.Array:
        *skips, x = pyramid
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
                x = nn.relu(BatchNorm(dtype=self.dtype, name=f"level{level}_norm{i}")(x, train))
        return x
