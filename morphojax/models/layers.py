"""Linear maps, GELU, normalisation and max-pooling as PyTorch does them; parameters are float32."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any


def gram(left: jax.Array, right: jax.Array) -> jax.Array:
    """left^T right of [N,K] and [N,M], float32 [K,M] or wider: as it stands, where `left.T @ right` transposes first on XLA's CPU."""
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return gradient @ kernel.T, gram(x, gradient).astype(kernel.dtype)


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [...,K] @ kernel [K,M] -> [...,M], whose kernel's gradient is x^T g as it stands.

    Differentiating the product gives (g^T x)^T, for which XLA on the CPU transposes x and takes a slower product: on one core the gradient
    of vit_tiny took 1.09 s with it and 0.92 s so, that of swin_tiny 1.03 and 0.74 s ([8,128,128,3], float32).
    """
    return _product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def contract(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: None = None) -> jax.Array:
    """`linear` over the last axes of x and the first of kernel, for the `dot_general` of flax's modules.

    Raises ValueError for any other contraction.
    """
    (axes, kernel_axes), batch = dimensions
    n = len(axes)
    first, last = tuple(range(n)), tuple(range(x.ndim - n, x.ndim))
    if precision is not None or any(map(len, batch)) or tuple(axes) != last or tuple(kernel_axes) != first:
        raise ValueError(f"a linear map contracts the last axes of x with the first of its kernel, not {dimensions}")
    size, left = math.prod(kernel.shape[:n]), x.shape[: x.ndim - n]
    return linear(x.reshape(*left, size), kernel.reshape(size, -1)).reshape(*left, *kernel.shape[n:])


Dense = functools.partial(nn.Dense, dot_general=contract)
Attention = functools.partial(nn.MultiHeadDotProductAttention, qkv_dot_general=contract, out_dot_general=contract)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016, arXiv:1606.08415), exact.

    By erf, as in PyTorch. flax has erfc, of which XLA computes both branches: value and gradient took four times as long on one CPU core.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def materialised(x: jax.Array) -> jax.Array:
    """x itself. On the CPU its gradient is written to memory before anything reads it.

    XLA's fusion on the CPU otherwise computes the gradient of a residual stream anew for each of its readers, through all the
    blocks above: on one core the gradient of vit_tiny for [4,64,64,3] took 241 to 245 ms without this and 104 to 119 with it, that of eight
    such blocks for [2,64,64,3] 1.24 times as long. Fusion looks through an optimization barrier, and not into a loop.
    """
    return x


def _materialise(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    if jax.default_backend() != "cpu":
        return (gradient,)
    start = jax.lax.optimization_barrier(jnp.int32(0))  # unknown to the compiler, which would unroll a loop of one turn
    turn = jax.lax.while_loop(
        lambda carry: carry[0] < 1,
        lambda carry: (carry[0] + 1, jnp.where(carry[0] < 1, carry[1], 0)),
        (start, gradient),
    )
    return (turn[1],)


materialised.defvjp(lambda x: (x, None), _materialise)


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
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        running_var = self.variable("batch_stats", "var", jnp.ones, c)
        scale = self.param("scale", nn.initializers.ones, c, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, c, jnp.float32)
        x = x.astype(self.dtype)
        if not train:
            return _affine(x, running_mean.value, running_var.value, scale, bias, self.epsilon)
        y, mean, var = _normalise(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            n = x.size // x.shape[-1]
            unbiased = var * (n / max(n - 1, 1))
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return y


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _affine(x, mean, var, scale, bias, epsilon):
    gain = scale * jax.lax.rsqrt(var + epsilon)
    return (_wide(x) * gain + (bias - mean * gain)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x, scale, bias, epsilon):
    """x normalised by its own statistics, and those: mean and biased variance, through which no gradient flows.

    The gradient is the paper's, in two reductions over x; differentiating the lines below takes three, in sequence.
    """
    wide, axes = _wide(x), tuple(range(x.ndim - 1))
    mean = wide.mean(axes)
    var = jnp.square(wide - mean).mean(axes)
    return _affine(x, mean, var, scale, bias, epsilon), mean, var


def _normalise_forward(x, scale, bias, epsilon):
    y, mean, var = _normalise(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, var)


def _normalise_backward(epsilon, residuals, gradients):
    x, scale, mean, var = residuals
    gradient, axes, n = _wide(gradients[0]), tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    inverse = jax.lax.rsqrt(var + epsilon)
    centred = _wide(x) - mean
    grad_bias = gradient.sum(axes)
    grad_scale = (gradient * centred).sum(axes) * inverse
    grad_x = scale * inverse * (gradient - grad_bias / n - centred * (inverse * grad_scale / n))
    return grad_x.astype(x.dtype), grad_scale, grad_bias


_normalise.defvjp(_normalise_forward, _normalise_backward)


NORMS = ("batch", "group")


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018, arXiv:1803.08494) of [B,H,W,C]: over pixels and the channels of a group, of each example.

    There are `groups`, or, where C is not a multiple, the most that divide both. Statistics are float32 whatever the dtype.
    Called as BatchNorm is, with the same names of parameters; training changes nothing.
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
        grouped = _wide(x).reshape(*x.shape[:-1], math.gcd(self.groups, c), -1)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        var = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
        y = ((grouped - mean) * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(x.dtype)


def normalisation(kind: str, dtype: Dtype, name: str) -> nn.Module:
    """BatchNorm ("batch") or GroupNorm ("group"), both called `(x, train)`. Raises ValueError for another kind."""
    if kind not in NORMS:
        raise ValueError(f"config.model.norm={kind!r} is unknown: choose one of {', '.join(NORMS)}")
    return (BatchNorm if kind == "batch" else GroupNorm)(dtype=dtype, name=name)


def film(x: jax.Array, condition: jax.Array, name: str) -> jax.Array:
    """[B,H,W,C] with every channel scaled and shifted by what a linear map makes of condition [B,M], from no effect at the start.

    FiLM (Perez et al. 2018, arXiv:1709.07871). To be called within a compact module, whose submodule `name` is the linear map.
    """
    weights = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros, name=name)(condition)
    scale, shift = jnp.split(weights.astype(x.dtype)[:, None, None], 2, axis=-1)
    return x * (1 + scale) + shift


def _taps(x: jax.Array) -> list[jax.Array]:
    """The nine values of every 3x3 window at stride 2, row by row: views [B,ceil(H/2),ceil(W/2),C] of x padded by 1."""
    h, w = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [x[:, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i in range(3) for j in range(3)]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows at stride 2, padded by 1: [B,H,W,C] -> [B,ceil(H/2),ceil(W/2),C].

    The gradient goes to the first maximum of a window, row by row, as in PyTorch and in XLA's own reduce-window. That
    one's gradient, select-and-scatter, took a fifth of a ResNet-18 step on the CPU: here the place of the maximum is
    remembered and both passes are elementwise.
    """
    return functools.reduce(jnp.maximum, _taps(x))


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, tuple[int, ...]]]:
    first, *rest = _taps(x)
    maximum, place = first, jnp.zeros(first.shape, jnp.int8)
    for i, value in enumerate(rest, start=1):
        place = jnp.where(value > maximum, jnp.int8(i), place)
        maximum = jnp.maximum(maximum, value)
    return maximum, (place, x.shape)


def _max_pool_backward(residuals: tuple[jax.Array, tuple[int, ...]], gradient: jax.Array) -> tuple[jax.Array]:
    place, (b, height, width, c) = residuals

    def sent(i: int, j: int) -> jax.Array:
        return jnp.where(place == 3 * i + j, gradient, 0)

    def shift(x: jax.Array, axis: int) -> jax.Array:
        """x[i + 1] at i, zero at the end: what the next window sends back."""
        pad = [(0, int(a == axis)) for a in range(4)]
        return jax.lax.slice_in_dim(jnp.pad(x, pad), 1, x.shape[axis] + 1, axis=axis)

    # Pixel (2i, 2j) is the centre of window (i, j); an odd row or column also belongs to the next window.
    even_even = sent(1, 1)
    even_odd = sent(1, 2) + shift(sent(1, 0), 2)
    odd_even = sent(2, 1) + shift(sent(0, 1), 1)
    odd_odd = sent(2, 2) + shift(sent(2, 0), 2) + shift(sent(0, 2), 1) + shift(shift(sent(0, 0), 1), 2)
    even, odd = jnp.stack([even_even, even_odd], 3), jnp.stack([odd_even, odd_odd], 3)
    h, w = gradient.shape[1:3]
    return (jnp.stack([even, odd], 2).reshape(b, 2 * h, 2 * w, c)[:, :height, :width],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
