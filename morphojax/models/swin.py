"""Swin, a transformer that looks through windows (Liu et al. 2021, arXiv:2103.14030), and so a pyramid from the start."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.features import Features
from morphojax.models.layers import Attention, Dense, Dtype, gelu, materialised
from morphojax.models.unet import fold, unfold

PATCH = 4
initial = nn.initializers.truncated_normal(0.02)


def relative_index(window: int, size: int) -> np.ndarray:
    """The row of a table of (2 * window - 1)**2 that has the bias of two places of a size x size window: int [N,N], N = size**2.

    Places are numbered row by row, the query's is the first axis; size <= window. A smaller window reads the middle of the
    table: an offset means the same in both.
    """
    places = np.stack(np.divmod(np.arange(size**2), size), -1)
    offset = places[:, None] - places[None] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Whether places of a window were neighbours before the map was rolled by -shift: bool [windows,1,N,N], N = window**2.

    height and width are multiples of window. The roll brings the first rows and columns behind the last ones, and
    those two must not see each other.
    """
    rolled_y, rolled_x = (np.arange(side) >= side - shift for side in (height, width))
    region = 2 * rolled_y[:, None] + rolled_x[None]
    region = region.reshape(height // window, window, width // window, window).swapaxes(1, 2).reshape(-1, window**2)
    return (region[:, :, None] == region[:, None])[:, None]


def _norm(dtype: Dtype, name: str) -> nn.Module:
    # The published epsilon, ten times that of the other transformers.
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name)


class SwinBlock(nn.Module):
    """x [B,H,W,D] -> [B,H,W,D]: attention within windows, then an MLP, each on a LayerNorm of x and added to x (eq. 3).

    Windows of window x window places see themselves alone; softmax of q k^T / sqrt(d) + bias (eq. 4), in float32 whatever the
    dtype. With shift above 0 the windows lie shift places further down and right. A map that is not whole windows is padded
    by zeros after its LayerNorm, which are seen like any place, and cut again. A window larger than the map shrinks to its
    shorter side and does not shift.
    drop_path: in training each of the two parts is left out of an example with this probability, and scaled by
    1 / (1 - drop_path) where it stays (stochastic depth, Huang et al. 2016, arXiv:1603.09382); needs an rng `draws`.
    """

    heads: int
    window: int = 7
    shift: int = 0
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        x = materialised(x)
        x = x + self._drop(self._attend(_norm(self.dtype, "attention_norm")(x)), train)
        y = _norm(self.dtype, "mlp_norm")(x)
        y = Dense(round(self.mlp_ratio * width), dtype=self.dtype, kernel_init=initial, name="dense1")(y)
        y = Dense(width, dtype=self.dtype, kernel_init=initial, name="dense2")(gelu(y))
        return x + self._drop(y, train)

    def _attend(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        window = min(self.window, h, w)
        shift = self.shift if window < min(h, w) else 0
        x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
        height, width = x.shape[1:3]
        mask = shift_mask(height, width, window, shift) if shift else None
        windows = fold(jnp.roll(x, (-shift, -shift), (1, 2)), window)
        y = self._attention(window)(windows.reshape(b, -1, window**2, c), mask=mask)
        y = unfold(y.reshape(windows.shape), window, height, width)
        return jnp.roll(y, (shift, shift), (1, 2))[:, :h, :w]

    def _attention(self, size: int) -> nn.Module:
        table = self.param("relative_position_bias", initial, ((2 * self.window - 1) ** 2, self.heads), jnp.float32)
        bias = table[relative_index(self.window, size)].transpose(2, 0, 1)
        return Attention(
            self.heads,
            dtype=self.dtype,
            kernel_init=initial,
            attention_fn=functools.partial(nn.dot_product_attention, bias=bias),
            force_fp32_for_softmax=True,
            name="attention",
        )

    def _drop(self, y: jax.Array, train: bool) -> jax.Array:
        if not train or not self.drop_path:
            return y
        keep = 1 - self.drop_path
        kept = jax.random.bernoulli(self.make_rng("draws"), keep, (len(y), 1, 1, 1))
        return jnp.where(kept, y / keep, 0)


class PatchMerging(nn.Module):
    """[B,H,W,D] -> [B,ceil(H/2),ceil(W/2),2*D]: blocks of 2x2 places, LayerNorm, a linear map without bias (section 3.1).

    An odd side is padded by zeros.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The published order of a block: column by column.
        x = fold(x.swapaxes(1, 2), 2).swapaxes(1, 2)
        x = _norm(self.dtype, "norm")(x)
        return Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, kernel_init=initial, name="reduction")(x)


class SwinTransformer(nn.Module):
    """Image [B,H,W,C], any C, H and W -> Features: pyramid at strides 4, 8, 16, 32 (of four stages), and pooled.

    width is the number of channels of the first stage (96 in the paper); stage i has width * 2**i. The pyramid holds what
    leaves each stage before patches are merged, without a LayerNorm of its own. pooled is the mean of the last map after
    the last LayerNorm, float32. An image that is not whole patches of 4x4 is padded by zeros below and on the right.
    Parameters do not depend on the size of the image, even where windows shrink: see `relative_index`.
    drop_path: rate of stochastic depth of the last block, from 0 in the first growing linearly; above 0 training needs an
    rng `draws`. Nothing else differs in training.
    remat: blocks are computed again for the gradient instead of kept.

    Raises ValueError when depths and heads are not as many, heads do not divide a stage's channels, window is below 1 or
    drop_path is not in [0, 1).
    """

    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    width: int = 96
    window: int = 7
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        self._check()
        padding = [(0, -side % PATCH) for side in image.shape[1:3]]
        patch = (PATCH, PATCH)
        x = nn.Conv(self.width, patch, patch, padding, dtype=self.dtype, name="patch_embedding")(image)
        x = _norm(self.dtype, "patch_norm")(x)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        pyramid = []
        make = nn.remat(SwinBlock, static_argnums=(2,)) if self.remat else SwinBlock
        # Numbered from 1: layer-wise learning rates read the depth off the name, and what has no number is the stem.
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), start=1):
            if stage > 1:
                x = PatchMerging(self.dtype, name=f"stage{stage}_merge")(x)
            for i in range(depth):
                shift = self.window // 2 if i % 2 else 0
                block = make(
                    heads,
                    self.window,
                    shift,
                    self.mlp_ratio,
                    next(rates),
                    self.dtype,
                    name=f"stage{stage}_block{i + 1}",
                )
                x = block(x, train)
            pyramid.append(x)
        x = _norm(self.dtype, "norm")(x)
        return Features(tuple(pyramid), x.mean((1, 2), dtype=jnp.float32))

    def _check(self) -> None:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {self.depths} and heads {self.heads} speak of different numbers of stages")
        for stage, heads in enumerate(self.heads):
            if (width := self.width * 2**stage) % heads:
                raise ValueError(
                    f"{heads} heads do not divide the {width} channels of stage {stage + 1}: change width={self.width}"
                )
        if self.window < 1:
            raise ValueError(f"window={self.window}: a window has at least one place")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} is a probability: give a value from 0 to below 1")
