"""Square convolution as PyTorch does it, with gradients that XLA computes fast on the CPU; parameters are float32."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import Dtype, gram, linear

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Square convolution without bias, padded by kernel // 2: [B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""

    features: int
    kernel: int
    stride: int = 1
    dtype: Dtype = jnp.float32
    kernel_init: Callable = he_fan_out

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        return convolve(x.astype(self.dtype), kernel, self.stride)


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x [B,H,W,C], kernel [k,k,C,D], k odd, padded by k // 2 zeros -> [B,ceil(H/stride),ceil(W/stride),D].

    Which of the ways below computes it is decided by shapes alone, from what they took on one CPU core.
    """
    if len(kernel) == 1:
        # On the CPU the gradients of a matrix product took a third of the strided convolution's time.
        return linear(x[:, ::stride, ::stride], kernel[0, 0])
    if jax.default_backend() != "cpu":
        return _plain(x, kernel, stride)
    if kernel.size > 4 * x.size:
        return _wide(x, kernel, stride)
    height, width = (-(-side // stride) for side in x.shape[1:3])
    many = min(x.size, len(x) * height * width * kernel.shape[3]) >= 2**19
    if many and height * width >= 128 and min(kernel.shape[2:]) >= 24:
        return _banded(x, kernel, stride)
    return _plain(x, kernel, stride)


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = [(k // 2, k // 2) for k in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def _wide(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same convolution as one matrix product of the windows of x.

    Where many channels meet few pixels, the kernel is far larger than the image, and XLA on the CPU transposes it for the gradient of
    x. On one core, from 512 to 512 channels, gradients of x and kernel took 12.5 instead of 18.1 ms for [8,4,4,512], and 3 instead
    of 250 ms for [4,2,2,512].
    """
    size, (height, width) = len(kernel), (-(-side // stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    places = [(i, j) for i in range(size) for j in range(size)]
    ends = (stride * (height - 1) + 1, stride * (width - 1) + 1)
    windows = [x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i, j in places]
    return linear(jnp.concatenate(windows, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _banded(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same convolution, whose kernel's gradient is added up over bands of rows.

    XLA's own is a convolution with kernels as large as the map, far slower once they leave the cache. On one core the gradient of a 3x3
    kernel took 26 instead of 52 ms for [24,32,32,64], 8 instead of 10 for [8,32,32,64], 24 instead of 55 for [8,56,56,64] and 18 instead of
    51 for [8,28,28,128], as many channels in as out.
    """
    return _plain(x, kernel, stride)


def _banded_backward(stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array):
    x, kernel = residuals
    (grad_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)(gradient)
    return grad_x, _kernel_gradient(x, gradient, len(kernel), stride).astype(kernel.dtype)


_banded.defvjp(lambda x, kernel, stride: (_banded(x, kernel, stride), (x, kernel)), _banded_backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """The window of x [B,H,W,C] about every place of the gradient [B,h,w,D] times that, added up: float32 [size,size,C,D].

    Of the two shifts that a window is made of, x takes the rows and the gradient the columns: beside each other they are one matrix
    product [size*C,B*h*w] x [B*h*w,size*D] instead of size**2 small ones, and x is copied size times instead of size**2. With a stride the
    gradient cannot take a column that is no multiple of it: then there is a product for each remainder.
    """
    (b, _, _, c), (_, height, width, d) = x.shape, gradient.shape
    shifts = -(-size // stride)  # of the gradient
    x = _padded(x, size // 2, (stride * (height - 1) + size, stride * (width + shifts - 1)))
    gradient = jnp.pad(gradient, ((0, 0), (0, 0), (shifts - 1, shifts - 1), (0, 0)))
    # Enough pixels for a product to be worth its call, few enough to stay in the cache.
    band = min(n for n in range(1, height + 1) if height % n == 0 and (n == height or n * b * width >= 512))

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(x, stride * band * i, stride * (band - 1) + size, axis=1)
        rows = [rows[:, j : j + stride * (band - 1) + 1 : stride] for j in range(size)]
        there = jax.lax.dynamic_slice_in_dim(gradient, band * i, band, axis=1)
        right = jnp.concatenate([there[:, :, j : j + width + shifts - 1] for j in reversed(range(shifts))], -1)
        left = [jnp.concatenate([row[:, :, j::stride] for row in rows], -1) for j in range(stride)]
        return total + jnp.stack([gram(_flat(one), _flat(right)) for one in left])

    total = jax.lax.fori_loop(0, height // band, add, jnp.zeros((stride, size * c, shifts * d)))
    total = total.reshape(stride, size, c, shifts, d).transpose(1, 3, 0, 2, 4)  # a column is stride * shift + remainder
    return total.reshape(size, shifts * stride, c, d)[:, :size]


def _padded(x: jax.Array, margin: int, sides: tuple[int, int]) -> jax.Array:
    """x [B,H,W,C] with margin zeros above and on the left, and as many below and on the right as make it [B,*sides,C]."""
    after = [side - margin - old for side, old in zip(sides, x.shape[1:3], strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((margin, n, 0) for n in after), (0, 0, 0)])


def _flat(x: jax.Array) -> jax.Array:
    """[B,h,w,C] -> [B*h*w,C]."""
    return x.reshape(-1, x.shape[-1])
