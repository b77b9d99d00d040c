"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545): a convolutional network with the proportions of a transformer."""

import functools
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.attention import layer_norm
from morphojax.models.features import Features
from morphojax.models.layers import Dense, Dtype, gelu
from morphojax.models.unet import fold

initial_weights = nn.initializers.normal(0.02)
NUMBERS = ("NHWC", "HWIO", "NHWC")


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Every channel convolved with its own kernel: [B,H,W,C], [k,k,1,C], k odd, padded by k // 2 zeros -> [B,H,W,C]."""
    if jax.default_backend() == "cpu":
        return _shifted(x, kernel)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=x.shape[-1]
    )


@jax.custom_vjp
def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`depthwise` as a sum of shifted products, in float32.

    XLA's grouped convolution is slow on the CPU: at [16,32,32,64], [16,16,16,128] and [16,8,8,256] with k = 7 this takes a tenth
    of its time or less, forward and backward.
    """
    size, (height, width) = len(kernel), x.shape[1:3]
    padded, weights = _padded(x, size // 2), _wide(kernel[:, :, 0])
    return _add(
        padded[:, i : i + height, j : j + width] * weights[i, j] for i in range(size) for j in range(size)
    ).astype(x.dtype)


def _shifted_backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    grad_kernel = _kernel_gradient(x, gradient, len(kernel))
    return _shifted(gradient, kernel[::-1, ::-1]), grad_kernel.astype(kernel.dtype)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """The window of x [B,H,W,C] about every pixel times the gradient there [B,H,W,C], added up: [size,size,1,C].

    Elementwise over [B,size,size,C], row by row: as size**2 reductions to C values it took the CPU several times as long.
    """
    b, height, width, c = x.shape
    padded, gradient = _padded(x, size // 2), _wide(gradient)

    def add_row(i: jax.Array, total: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(padded, i, size, axis=1)
        row = jax.lax.dynamic_slice_in_dim(gradient, i, 1, axis=1)
        return total + _add(rows[:, :, j : j + size] * row[:, :, j : j + 1] for j in range(width))

    total = jax.lax.fori_loop(0, height, add_row, jnp.zeros((b, size, size, c), padded.dtype))
    return total.sum(0)[:, :, None]


_shifted.defvjp(lambda x, kernel: (_shifted(x, kernel), (x, kernel)), _shifted_backward)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _padded(x: jax.Array, margin: int) -> jax.Array:
    return jnp.pad(_wide(x), ((0, 0), (margin, margin), (margin, margin), (0, 0)))


def _add(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)


class DepthwiseConv(nn.Module):
    """`depthwise` with a bias: [B,H,W,C] -> [B,H,W,C]. kernel: [size,size,1,C]."""

    size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        kernel = self.param("kernel", initial_weights, (self.size, self.size, 1, c), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class ConvNeXtBlock(nn.Module):
    """[B,H,W,C] -> [B,H,W,C] (figure 4 of the paper).

    7x7 depthwise convolution, LayerNorm, 1x1 convolution to 4C, exact GELU, 1x1 convolution back, layer scale; added to x.
    drop_path: probability that an example goes without the addition in training; kept ones are divided by 1 - drop_path.
    """

    drop_path: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = x.shape[-1]
        y = DepthwiseConv(7, self.dtype, name="depthwise")(x)
        y = layer_norm(self.dtype, "norm")(y)
        y = gelu(_dense(4 * c, self.dtype, "dense1")(y))
        y = _dense(c, self.dtype, "dense2")(y)
        y *= self.param("scale", nn.initializers.constant(1e-6), (c,), jnp.float32).astype(self.dtype)
        drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), rng_collection="draws", name="drop_path")
        return x + drop(y, deterministic=not train)


def _dense(features: int, dtype: Dtype, name: str) -> nn.Module:
    return Dense(features, dtype=dtype, kernel_init=initial_weights, name=name)


class ConvNeXt(nn.Module):
    """Image [B,H,W,C], any C and any size -> Features at strides 4, 8, 16, 32 (one more for every further stage).

    The pyramid holds the stages as they are, in dtype; pooled is LayerNorm of the mean of the last map, float32. Stage i has
    width * 2**i channels. A convolution whose kernel is its stride cuts the map into patches; a side that is not whole patches
    is filled with zeros at its end, so that a stage has ceil(side / stride) places.

    drop_path: rate of stochastic depth (Huang et al. 2016, arXiv:1603.09382) at the last block, from 0 at the first, linear
    between. Above 0 it needs an rng named `draws` in training.
    remat: blocks are computed again for the gradient instead of kept.

    Layout, for weights from elsewhere: the kernel of `stem_conv` and `stage<i>_down_conv` (size s) is [s*s*C,D], rows ordered by
    y, x, input channel; of `depthwise` [7,7,1,C]; of `dense1` and `dense2` [in,out]. From PyTorch's [out,in,y,x] all of these are
    a transposition to [y,x,in,out] and a reshape.

    Raises ValueError when drop_path is not in 0 to below 1.
    """

    depths: tuple[int, ...]
    width: int = 96
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path={self.drop_path} is a probability: give a value from 0 to below 1")
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.depths)).tolist())
        x = _dense(self.width, self.dtype, "stem_conv")(fold(image, 4))
        x = layer_norm(self.dtype, "stem_norm")(x)
        pyramid = []
        block = nn.remat(ConvNeXtBlock, static_argnums=(2,)) if self.remat else ConvNeXtBlock
        for stage, depth in enumerate(self.depths, start=1):
            if stage > 1:
                x = layer_norm(self.dtype, f"stage{stage}_down_norm")(x)
                x = _dense(2 * x.shape[-1], self.dtype, f"stage{stage}_down_conv")(fold(x, 2))
            for i in range(1, depth + 1):
                x = block(next(rates), self.dtype, name=f"stage{stage}_block{i}")(x, train)
            pyramid.append(x)
        return Features(tuple(pyramid), layer_norm(jnp.float32, "norm")(x.mean((1, 2), dtype=jnp.float32)))
