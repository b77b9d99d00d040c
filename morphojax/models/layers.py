"""The layers that the models share: convolution, normalisation, GELU, FiLM; parameters are
float32.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any
NORMS = ("batch", "group")

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, size: int, stride: int = 1, dtype: Dtype = jnp.float32, name: str | None = None) -> nn.Module:
    """A convolution with a size x size kernel, padded by size // 2 zeros, without bias.

    [B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]. He-normal weights by fan-out, as in
    torchvision's ResNet.
    """
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_fan_out,
        name=name,
    )


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Pixel shuffle: [B,h,w,factor*factor*C] -> [B,factor*h,factor*w,C], channels by y, x, channel.

    Written with stacks instead of a transposition: XLA failed to compile the segmenter on a GPU
    when it fused a matrix product with a transposition.
    """
    b, h, w, channels = x.shape
    c = channels // factor**2
    pixels = jnp.split(x, factor**2, axis=-1)  # of a block, row by row
    rows = [jnp.stack(pixels[i : i + factor], axis=3) for i in range(0, factor**2, factor)]
    rows = [row.reshape(b, h, w * factor, c) for row in rows]
    return jnp.stack(rows, axis=2).reshape(b, h * factor, w * factor, c)


class SubpixelConv(nn.Module):
    """1x1 convolution and pixel shuffle: [B,h,w,C] -> [B,factor*h,factor*w,features].

    Shi et al. 2016 (arXiv:1609.05158); the same as a transposed convolution with kernel size and
    stride `factor`, except that every pixel of a block has its own bias.
    kernel: [C, factor*factor*features], columns by y, x, feature; bias in the same order.
    """

    features: int
    factor: int = 2
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.factor**2 * self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype)[None, None],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32).astype(self.dtype)
        return depth_to_space(y, self.factor)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): x times its normal distribution.

    Written with erf, as in PyTorch. jax.nn.gelu uses erfc, which XLA computes in two branches.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015, arXiv:1502.03167).

    Statistics are float32 whatever the dtype, and global: under jit over a mesh the mean spans all
    devices. The running variance is the unbiased estimate, as in PyTorch; flax.linen.BatchNorm
    keeps the biased one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        x = x.astype(self.dtype)
        mean, var = running_mean.value, running_var.value
        if train:
            axes, n = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            mean = _float32(x).mean(axes)
            # The derivative of the variance with respect to the mean is zero: no need to compute
            # it.
            var = jnp.square(_float32(x) - jax.lax.stop_gradient(mean)).mean(axes)
            if not self.is_initializing():
                unbiased = var * (n / max(n - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        y = (_float32(x) - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
        return y.astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018, arXiv:1803.08494) of [B,H,W,C], over pixels and the
    channels of a group.

    There are `groups` groups, or, where C is not a multiple, gcd(groups, C). Statistics are float32
    whatever the dtype. It is called like BatchNorm and has the same parameter names; `train` has no
    effect.
    """

    groups: int = 8
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        x = x.astype(self.dtype)
        grouped = _float32(x).reshape(*x.shape[:-1], math.gcd(self.groups, c), -1)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        var = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
        y = ((grouped - mean) * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(x.dtype)


def _float32(x: jax.Array) -> jax.Array:
    """float32, or float64 where x is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def normalisation(kind: str, dtype: Dtype, name: str) -> nn.Module:
    """BatchNorm ("batch") or GroupNorm ("group"), both called with (x, train).

    Raises ValueError for another kind.
    """
    if kind not in NORMS:
        raise ValueError(f"config.model.norm={kind!r} is unknown: choose one of {', '.join(NORMS)}")
    return (BatchNorm if kind == "batch" else GroupNorm)(dtype=dtype, name=name)


def layer_norm(dtype: Dtype, name: str, epsilon: float = 1e-6) -> nn.Module:
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450), statistics in float32."""
    # flax's fast variance is a difference of two large numbers where a mean is far from zero.
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def film(x: jax.Array, condition: jax.Array, name: str) -> jax.Array:
    """x [B,H,W,C] with every channel scaled and shifted by a linear map of condition [B,M].

    FiLM (Perez et al. 2018, arXiv:1709.07871). The map starts at zero, so at first x does not
    change. Call it in a compact module; the linear map becomes its submodule `name`.
    """
    weights = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros, name=name)(condition)
    scale, shift = jnp.split(weights.astype(x.dtype)[:, None, None], 2, axis=-1)
    return x * (1 + scale) + shift
