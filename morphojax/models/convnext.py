"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545): a convolutional network like a transformer."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.features import Features
from morphojax.models.layers import Dtype, gelu, layer_norm

initial_weights = nn.initializers.normal(0.02)


def _dense(features: int, dtype: Dtype, name: str) -> nn.Module:
    return nn.Dense(features, dtype=dtype, kernel_init=initial_weights, name=name)


class PatchConv(nn.Module):
    """A convolution whose kernel is as large as its stride, which cuts the map into patches.

    [B,H,W,C] -> [B,ceil(H/size),ceil(W/size),features].
    Zeros at the end fill a side that is not a multiple of size.
    kernel: [size*size*C, features], rows ordered by y, x, input channel.
    """

    features: int
    size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s, c = self.size, x.shape[-1]
        kernel = self.param("kernel", initial_weights, (s * s * c, self.features), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        padding = [(0, -side % s) for side in x.shape[1:3]]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.reshape(s, s, c, self.features),
            (s, s),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias


class ConvNeXtBlock(nn.Module):
    """[B,H,W,C] -> [B,H,W,C] (figure 4 of the paper).

    7x7 depthwise convolution, LayerNorm, 1x1 convolution to 4C, exact GELU, 1x1 convolution back,
    layer scale; added to x.
    drop_path: in training, probability that an example skips the block; a kept addition is divided
    by 1 - drop_path.
    """

    drop_path: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = x.shape[-1]
        y = nn.Conv(c, (7, 7), feature_group_count=c, dtype=self.dtype, kernel_init=initial_weights, name="depthwise")(
            x
        )
        y = layer_norm(self.dtype, "norm")(y)
        y = gelu(_dense(4 * c, self.dtype, "dense1")(y))
        y = _dense(c, self.dtype, "dense2")(y)
        y *= self.param("scale", nn.initializers.constant(1e-6), (c,), jnp.float32).astype(self.dtype)
        drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), rng_collection="draws", name="drop_path")
        return x + drop(y, deterministic=not train)


class ConvNeXt(nn.Module):
    """Image [B,H,W,C], any C and any size -> Features at strides 4, 8, 16, 32.

    The pyramid holds the output of each stage, in dtype; pooled is LayerNorm of the mean of the
    last map, float32. Stage i has width * 2**i channels, and ceil(side / stride) positions along a
    side (`PatchConv`).

    drop_path: stochastic depth (Huang et al. 2016, arXiv:1603.09382); the rate grows linearly from
    0 at the first block to drop_path at the last. Above 0, training needs an rng `draws`.
    remat: compute blocks again for the gradient instead of keeping their activations.

    Layout, to convert published weights: the kernel of `stem_conv` and `stage<i>_down_conv` is that
    of `PatchConv`; of `depthwise` [7,7,1,C]; of `dense1` and `dense2` [in,out]. All are PyTorch's
    [out,in,y,x] transposed to [y,x,in,out] and reshaped.

    Raises ValueError when drop_path is not in [0, 1).
    """

    depths: tuple[int, ...]
    width: int = 96
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32
    remat: bool = False

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule -> depth level, from input to output; `norm` has no level."""
        names = {"stem_conv": "stem", "stem_norm": "stem"}
        for stage, depth in enumerate(self.depths, start=1):
            down = ("down_norm", "down_conv") if stage > 1 else ()
            blocks = (f"block{i}" for i in range(1, depth + 1))
            names |= {f"stage{stage}_{part}": f"stage{stage}" for part in (*down, *blocks)}
        return names

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path={self.drop_path} is a probability: give a value from 0 to below 1")
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.depths)).tolist())
        x = PatchConv(self.width, 4, self.dtype, name="stem_conv")(image)
        x = layer_norm(self.dtype, "stem_norm")(x)
        pyramid = []
        block = nn.remat(ConvNeXtBlock, static_argnums=(2,)) if self.remat else ConvNeXtBlock
        for stage, depth in enumerate(self.depths, start=1):
            if stage > 1:
                x = layer_norm(self.dtype, f"stage{stage}_down_norm")(x)
                x = PatchConv(2 * x.shape[-1], 2, self.dtype, name=f"stage{stage}_down_conv")(x)
            for i in range(1, depth + 1):
                x = block(next(rates), self.dtype, name=f"stage{stage}_block{i}")(x, train)
            pyramid.append(x)
        return Features(tuple(pyramid), layer_norm(jnp.float32, "norm")(x.mean((1, 2), dtype=jnp.float32)))
