"""Faster gradients for XLA's CPU backend: the same functions as in `layers`, used on the CPU alone.

Each function here makes the whole train step of a shipped config at least 10 % faster; its
docstring says by how much.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def enabled() -> bool:
    """Whether the models use this file: on the CPU. Everywhere else they use plain operations."""
    return jax.default_backend() == "cpu"


def _windows(x: jax.Array) -> list[jax.Array]:
    """The nine values of every 3x3 window at stride 2, row by row: views [B,ceil(H/2),ceil(W/2),C]
    of x padded by 1.
    """
    h, w = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [x[:, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i in range(3) for j in range(3)]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """`layers.max_pool`: maximum over 3x3 windows at stride 2, padded by 1.

    XLA's gradient (select-and-scatter) is slow on the CPU. Here the forward pass keeps the position
    of each maximum, and both passes are elementwise. Measured: GAIN_POOL
    """
    return functools.reduce(jnp.maximum, _windows(x))


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, tuple[int, ...]]]:
    first, *rest = _windows(x)
    maximum, position = first, jnp.zeros(first.shape, jnp.int8)
    for i, value in enumerate(rest, start=1):
        position = jnp.where(value > maximum, jnp.int8(i), position)
        maximum = jnp.maximum(maximum, value)
    return maximum, (position, x.shape)


def _max_pool_backward(residuals: tuple[jax.Array, tuple[int, ...]], gradient: jax.Array) -> tuple[jax.Array]:
    position, (b, height, width, c) = residuals

    def sent_to(i: int, j: int) -> jax.Array:
        """The gradient of the windows whose maximum is at row i, column j; 0 for the others."""
        return jnp.where(position == 3 * i + j, gradient, 0)

    def next_window(x: jax.Array, axis: int) -> jax.Array:
        """x[i + 1] at i, zero at the end."""
        pad = [(0, int(a == axis)) for a in range(4)]
        return jax.lax.slice_in_dim(jnp.pad(x, pad), 1, x.shape[axis] + 1, axis=axis)

    # Pixel (2i, 2j) is the centre of window (i, j); a pixel with an odd row or column also lies in the next window.
    even_even = sent_to(1, 1)
    even_odd = sent_to(1, 2) + next_window(sent_to(1, 0), 2)
    odd_even = sent_to(2, 1) + next_window(sent_to(0, 1), 1)
    odd_odd = sent_to(2, 2) + next_window(sent_to(2, 0), 2) + next_window(sent_to(0, 2), 1)
    odd_odd += next_window(next_window(sent_to(0, 0), 1), 2)
    even, odd = jnp.stack([even_even, even_odd], 3), jnp.stack([odd_even, odd_odd], 3)
    h, w = gradient.shape[1:3]
    return (jnp.stack([even, odd], 2).reshape(b, 2 * h, 2 * w, c)[:, :height, :width],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **settings: Any) -> jax.Array:
    """jax.lax.conv_general_dilated; for square kernels on large maps with the kernel's gradient in
    bands of rows.

    Measured: GAIN_BANDS
    """
    (b, height, width, c), (size, _, _, d), stride = x.shape, kernel.shape, strides[0]
    height, width = -(-height // stride), -(-width // stride)
    many = min(x.size, b * height * width * d) >= 2**19
    if size > 1 and many and height * width >= 128 and min(c, d) >= 24:
        return _banded(x, kernel, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **settings)


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = [(k // 2, k // 2) for k in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _banded(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution, padded by size // 2 zeros, whose kernel gradient is summed over bands of rows.

    XLA computes that gradient as a convolution with kernels as large as the map, which do not fit
    the cache.
    """
    return _plain(x, kernel, stride)


def _banded_backward(stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array):
    x, kernel = residuals
    (grad_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)(gradient)
    return grad_x, _kernel_gradient(x, gradient, len(kernel), stride).astype(kernel.dtype)


_banded.defvjp(lambda x, kernel, stride: (_banded(x, kernel, stride), (x, kernel)), _banded_backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """For every pixel of gradient [B,h,w,D]: its window of x [B,H,W,C] times it, summed: float32
    [size,size,C,D].

    A window position is a row shift and a column shift. x takes the row shifts and the gradient the
    column shifts, so that one matrix product [size*C, B*h*w] x [B*h*w, size*D] replaces size**2
    small ones. With a stride, there is one product for each remainder of the column shift.
    """
    (b, _, _, c), (_, height, width, d) = x.shape, gradient.shape
    shifts = -(-size // stride)  # of the gradient
    x = _pad(x, size // 2, (stride * (height - 1) + size, stride * (width + shifts - 1)))
    gradient = jnp.pad(gradient, ((0, 0), (0, 0), (shifts - 1, shifts - 1), (0, 0)))
    # Enough pixels for an efficient product, few enough to stay in the cache.
    band = min(n for n in range(1, height + 1) if height % n == 0 and (n == height or n * b * width >= 512))

    def add_band(i: jax.Array, total: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(x, stride * band * i, stride * (band - 1) + size, axis=1)
        rows = [rows[:, j : j + stride * (band - 1) + 1 : stride] for j in range(size)]
        band_gradient = jax.lax.dynamic_slice_in_dim(gradient, band * i, band, axis=1)
        right = jnp.concatenate([band_gradient[:, :, j : j + width + shifts - 1] for j in reversed(range(shifts))], -1)
        left = [jnp.concatenate([row[:, :, j::stride] for row in rows], -1) for j in range(stride)]
        return total + jnp.stack([_product(remainder, right) for remainder in left])

    total = jax.lax.fori_loop(0, height // band, add_band, jnp.zeros((stride, size * c, shifts * d)))
    total = total.reshape(stride, size, c, shifts, d).transpose(1, 3, 0, 2, 4)  # column = stride * shift + remainder
    return total.reshape(size, shifts * stride, c, d)[:, :size]


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """left^T right of [...,K] and [...,M], without a transposed copy: float32 [K,M]."""
    left, right = left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


def _pad(x: jax.Array, margin: int, sides: tuple[int, int]) -> jax.Array:
    """x [B,H,W,C] with margin zeros above and left, and below and right as many as make it
    [B,*sides,C].
    """
    after = [side - margin - old for side, old in zip(sides, x.shape[1:3], strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((margin, n, 0) for n in after), (0, 0, 0)])
