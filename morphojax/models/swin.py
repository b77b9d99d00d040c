"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030): attention within windows, on maps of four
strides.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.features import Features
from morphojax.models.layers import Dtype, gelu, layer_norm

PATCH = 4
initial = nn.initializers.truncated_normal(0.02)


def _norm(dtype: Dtype, name: str) -> nn.Module:
    return layer_norm(dtype, name, epsilon=1e-5)  # as published; the other transformers have 1e-6


def relative_index(window: int, size: int) -> np.ndarray:
    """Rows of a bias table of (2 * window - 1)**2 offsets, for all pairs of positions in a size x
    size window.

    int [N,N], N = size**2: queries along the first axis, keys along the second, positions numbered
    row by row. size <= window: a smaller window uses the middle of the table, so that an offset
    keeps its meaning.
    """
    positions = np.stack(np.divmod(np.arange(size**2), size), -1)
    offset = positions[:, None] - positions[None] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Attention mask of a map rolled by -shift: bool [windows,1,N,N], N = window**2.

    True for positions that were neighbours before the roll: it brings the first rows and columns
    behind the last ones, and these must not attend to each other. height and width are multiples of
    window.
    """
    rolled_y, rolled_x = (np.arange(side) >= side - shift for side in (height, width))
    region = 2 * rolled_y[:, None] + rolled_x[None]
    region = region.reshape(height // window, window, width // window, window).swapaxes(1, 2).reshape(-1, window**2)
    return (region[:, :, None] == region[:, None])[:, None]


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """[B,H,W,C] -> [B,windows,window**2,C]; H and W are multiples of window."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
    return x.reshape(b, -1, window**2, c)


def from_windows(x: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `to_windows`: [B,windows,window**2,C] -> [B,height,width,C]."""
    b, _, n, c = x.shape
    window = round(n**0.5)
    x = x.reshape(b, height // window, width // window, window, window, c).swapaxes(2, 3)
    return x.reshape(b, height, width, c)


class SwinBlock(nn.Module):
    """x [B,H,W,D] -> [B,H,W,D]: attention within windows, then an MLP; each reads a LayerNorm of x
    and is added to x (eq. 3).

    Attention within windows of window x window positions: softmax of q k^T / sqrt(d) + bias (eq.
    4), in float32 whatever the dtype. With shift above 0, windows start shift positions further
    down and right. A map that does not consist of whole windows is padded with zeros after its
    LayerNorm and cropped afterwards; padding is not masked. A window larger than the map shrinks to
    its shorter side and does not shift.
    drop_path: in training, probability that an example skips a part; a part that is kept is divided
    by 1 - drop_path (stochastic depth, Huang et al. 2016, arXiv:1603.09382). Needs an rng `draws`.
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
        x = x + self._drop(self._attend(_norm(self.dtype, "attention_norm")(x)), train)
        y = _norm(self.dtype, "mlp_norm")(x)
        y = nn.Dense(round(self.mlp_ratio * width), dtype=self.dtype, kernel_init=initial, name="dense1")(y)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=initial, name="dense2")(gelu(y))
        return x + self._drop(y, train)

    def _attend(self, x: jax.Array) -> jax.Array:
        h, w = x.shape[1:3]
        window = min(self.window, h, w)
        shift = self.shift if window < min(h, w) else 0
        x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
        height, width = x.shape[1:3]
        mask = shift_mask(height, width, window, shift) if shift else None
        windows = to_windows(jnp.roll(x, (-shift, -shift), (1, 2)), window)
        y = from_windows(self._attention(window)(windows, mask=mask), height, width)
        return jnp.roll(y, (shift, shift), (1, 2))[:, :h, :w]

    def _attention(self, size: int) -> nn.Module:
        table = self.param("relative_position_bias", initial, ((2 * self.window - 1) ** 2, self.heads), jnp.float32)
        bias = table[relative_index(self.window, size)].transpose(2, 0, 1)
        return nn.MultiHeadDotProductAttention(
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
    """[B,H,W,D] -> [B,ceil(H/2),ceil(W/2),2*D]: blocks of 2x2 positions, LayerNorm, a linear map
    without bias (section 3.1).

    An odd side is padded with zeros.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        # The published order of a block: column by column.
        x = jnp.concatenate([x[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1)
        x = _norm(self.dtype, "norm")(x)
        return nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, kernel_init=initial, name="reduction")(x)


class SwinTransformer(nn.Module):
    """Image [B,H,W,C], any C, H and W -> Features: pyramid at strides 4, 8, 16, 32 (of four
    stages), and pooled.

    width: channels of the first stage (96 in the paper); stage i has width * 2**i. The pyramid
    holds the output of each stage before patches are merged, without a LayerNorm of its own. pooled
    is the mean of the last map after the last LayerNorm, float32. An image that does not consist of
    whole 4x4 patches is padded with zeros below and on the right. Parameters do not depend on the
    image size, even where windows shrink (`relative_index`).
    drop_path: stochastic depth; the rate grows linearly from 0 at the first block to drop_path at
    the last. Above 0, training needs an rng `draws`. Nothing else differs in training.
    remat: compute blocks again for the gradient instead of keeping their activations.

    Raises ValueError when depths and heads differ in length, heads do not divide a stage's
    channels, window is below 1, or drop_path is not in [0, 1).
    """

    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    width: int = 96
    window: int = 7
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32
    remat: bool = False

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule -> depth level, from input to output; `norm` has no level."""
        names = {"patch_embedding": "stem", "patch_norm": "stem"}
        for stage, depth in enumerate(self.depths, start=1):
            merge = ("merge",) if stage > 1 else ()
            blocks = (f"block{i}" for i in range(1, depth + 1))
            names |= {f"stage{stage}_{part}": f"stage{stage}" for part in (*merge, *blocks)}
        return names

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        self._check()
        padding = [(0, -side % PATCH) for side in image.shape[1:3]]
        patch = (PATCH, PATCH)
        x = nn.Conv(self.width, patch, patch, padding, dtype=self.dtype, name="patch_embedding")(image)
        x = _norm(self.dtype, "patch_norm")(x)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        pyramid = []
        make_block = nn.remat(SwinBlock, static_argnums=(2,)) if self.remat else SwinBlock
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), start=1):
            if stage > 1:
                x = PatchMerging(self.dtype, name=f"stage{stage}_merge")(x)
            for i in range(depth):
                shift = self.window // 2 if i % 2 else 0
                name = f"stage{stage}_block{i + 1}"
                block = make_block(heads, self.window, shift, self.mlp_ratio, next(rates), self.dtype, name=name)
                x = block(x, train)
            pyramid.append(x)
        x = _norm(self.dtype, "norm")(x)
        return Features(tuple(pyramid), x.mean((1, 2), dtype=jnp.float32))

    def _check(self) -> None:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {self.depths} and heads {self.heads} give different numbers of stages")
        for stage, heads in enumerate(self.heads):
            if (width := self.width * 2**stage) % heads:
                raise ValueError(
                    f"{heads} heads do not divide the {width} channels of stage {stage + 1}: change width={self.width}"
                )
        if self.window < 1:
            raise ValueError(f"window={self.window}: a window has at least one position")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} is a probability: give a value from 0 to below 1")
