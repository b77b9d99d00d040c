"""Convolution, batch normalisation and max-pooling as PyTorch does them, for [B,H,W,C]; parameters are float32."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Square convolution without bias, padded by kernel // 2: [B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""

    features: int
    kernel: int
    stride: int = 1
    dtype: Dtype = jnp.float32
    init: Callable = he_fan_out

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.init, shape, jnp.float32)
        pad = self.kernel // 2
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015), as PyTorch does it.

    Statistics are float32 whatever the dtype, and global: under jit over a mesh the mean spans all devices.
    The running variance takes the unbiased estimate, as in PyTorch; flax.linen.BatchNorm takes the biased one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = (x.shape[-1],)
        mean_var = self.variable("batch_stats", "mean", jnp.zeros, c), self.variable("batch_stats", "var", jnp.ones, c)
        running_mean, running_var = mean_var
        scale = self.param("scale", nn.initializers.ones, c, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, c, jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            n = x.size // x.shape[-1]
            x32 = x.astype(jnp.float32)
            mean = x32.mean(axes)
            var = jnp.square(x32 - mean).mean(axes)
            if not self.is_initializing():
                unbiased = var * (n / max(n - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x.astype(jnp.float32) * gain + (bias - mean * gain)).astype(self.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows at stride 2, padded by 1: [B,H,W,C] -> [B,ceil(H/2),ceil(W/2),C]."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
