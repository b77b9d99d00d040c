"""A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with a feature pyramid for a
decoder.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.attention import Block, resize_positions, sine_positions
from morphojax.models.features import Features
from morphojax.models.layers import Dtype, SubpixelConv, gelu, layer_norm

STRIDES = (4, 8, 16)  # of the pyramid


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of height x width pixels. Raises ValueError that
    names the nearest sizes.
    """
    if height % patch or width % patch or not height or not width:
        low = [max(side // patch, 1) * patch for side in (height, width)]
        high = [max(-(-side // patch), 1) * patch for side in (height, width)]
        fitting = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys((tuple(low), tuple(high))))
        raise ValueError(
            f"an image of {height}x{width} does not divide into patches of {patch}x{patch}: {fitting} would fit"
        )
    return height // patch, width // patch


class FeaturePyramid(nn.Module):
    """Maps [B,h,w,D] of a transformer, all at stride `patch`, one for each of `strides` -> maps at
    those strides.

    The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527, section 3): a transposed
    2x2 convolution of stride 2 for each doubling (it halves the channels), the identity, or
    max-pooling; then LayerNorm. ViTDet's convolutions on each level are left to the decoder. Raises
    ValueError when patch is not a power of two.
    """

    patch: int
    dtype: Dtype = jnp.float32
    strides: tuple[int, ...] = STRIDES

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        if self.patch < 1 or self.patch.bit_count() != 1:
            raise ValueError(
                f"a pyramid of strides {self.strides} needs a patch that is a power of two, not {self.patch}"
            )
        return tuple(self._level(x.astype(self.dtype), s) for x, s in zip(maps, self.strides, strict=True))

    def _level(self, x: jax.Array, stride: int) -> jax.Array:
        name = f"stride{stride}"
        doublings = max(self.patch // stride, 1).bit_length() - 1
        for i in range(1, doublings + 1):
            up = SubpixelConv(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name=f"{name}_up{i}")
            x = up(x)
            if i < doublings:
                x = gelu(layer_norm(self.dtype, f"{name}_up{i}_norm")(x))
        x = _max_pool(x, max(stride // self.patch, 1))
        return layer_norm(self.dtype, f"{name}_norm")(x)


def _max_pool(x: jax.Array, factor: int) -> jax.Array:
    """[B,h,w,C] -> [B,ceil(h/factor),ceil(w/factor),C]; the last windows may be smaller."""
    if factor == 1:
        return x
    padding = [(0, -side % factor) for side in x.shape[1:3]]
    return nn.max_pool(x, (factor, factor), (factor, factor), padding)


class VisionTransformer(nn.Module):
    """Image [B,H,W,C], any C, H and W multiples of patch -> Features.

    width: channels of a head, so that the tokens have D = heads * width. A convolution whose kernel
    is its stride embeds the patches. Nothing differs in training but stochastic depth.

    image_size 0 (Beyer et al. 2022, arXiv:2205.01580): positions are fixed sines, for any image
    size; pooled is the mean of the patch tokens after the last LayerNorm, float32; the pyramid, at
    strides 4, 8, 16, comes from these tokens. image_size above 0 (as published): positions are
    learned, `positions` [1,1+P,D] for the P patches of a square image of that side, and resampled
    for other grids (`resize_positions`). A `class_token` [1,1,D] goes first and is pooled after the
    last LayerNorm. Parameters do not depend on the size of the image itself.
    taps: numbers (from 1) of the blocks whose tokens become the levels of the pyramid, at strides
    4, 8, 16, ... (as in Ranftl et al. 2021, arXiv:2103.13413); empty: the last tokens make three
    levels.
    drop_path: stochastic depth (Huang et al. 2016, arXiv:1603.09382); the rate grows linearly from
    0 at the first block to drop_path at the last. Above 0, training needs an rng `draws`.
    remat: compute blocks again for the gradient instead of keeping their activations. The submodule
    `pyramid` makes the pyramid; if only `pooled` is used, its parameters get no gradient.

    Raises ValueError when the image (or image_size) does not divide into patches, D is not a
    multiple of 4 with fixed positions, taps are not ascending block numbers, or drop_path is not in
    [0, 1).
    """

    width: int = 64
    depth: int = 12
    heads: int = 3
    patch: int = 8
    dtype: Dtype = jnp.float32
    image_size: int = 0
    taps: tuple[int, ...] = ()
    drop_path: float = 0.0
    remat: bool = False

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule or parameter -> depth level, from input to output.

        The last LayerNorm (`norm`) and the `pyramid` have no level.
        """
        stem = ["patch_embedding", *(["class_token", "positions"] if self.image_size else [])]
        blocks = [f"block{i}" for i in range(1, self.depth + 1)]
        return dict.fromkeys(stem, "stem") | {block: block for block in blocks}

    def setup(self):
        self._check()
        stride, d = (self.patch, self.patch), self.heads * self.width
        self.patch_embedding = nn.Conv(d, stride, stride, "VALID", dtype=self.dtype)
        if self.image_size:
            rows, columns = patch_grid(self.image_size, self.image_size, self.patch)
            initial = nn.initializers.truncated_normal(0.02)
            self.class_token = self.param("class_token", initial, (1, 1, d), jnp.float32)
            self.positions = self.param("positions", initial, (1, 1 + rows * columns, d), jnp.float32)
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        rates = np.linspace(0, self.drop_path, self.depth).tolist()
        self.blocks = [
            block(self.heads, dtype=self.dtype, drop_path=rate, name=f"block{i}")
            for i, rate in enumerate(rates, start=1)
        ]
        self.norm = layer_norm(self.dtype, "norm")
        strides = tuple(4 * 2**i for i in range(len(self.taps))) or STRIDES
        self.pyramid = FeaturePyramid(self.patch, self.dtype, strides)

    def __call__(self, image: jax.Array, train: bool) -> Features:
        *tapped, tokens = self.tokens(image, train)
        pooled = tokens[:, 0].astype(jnp.float32) if self.image_size else tokens.mean(1, dtype=jnp.float32)
        maps = [self._map(t, image) for t in (tapped if self.taps else len(STRIDES) * [tokens])]
        return Features(self.pyramid(maps), pooled)

    def tokens(self, image: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Outputs [B,P,D] of the blocks in `taps`, and the last output, normalised.

        With a class token [B,1+P,D], the class token first.
        """
        x, tapped = self._with_class(self._embed(image)), []
        for i, block in enumerate(self.blocks, start=1):
            x = block(x, None, None, train)
            if i in self.taps:
                tapped.append(x)
        return *tapped, self.norm(x)

    def encode_visible(self, image: jax.Array, visible: jax.Array) -> jax.Array:
        """Tokens [B,V,D] of the visible patches alone, in the dtype of computation (He et al. 2022,
        arXiv:2111.06377).

        They attend to each other and to the class token, which is not returned. No stochastic
        depth.
        image: [B,H,W,C]. visible: int [B,V], patch numbers, row by row.
        Raises ValueError when the image does not divide into patches, or visible does not have B
        rows of 1 to P numbers.
        """
        x = self._embed(image)
        b, patches, _ = x.shape
        if visible.ndim != 2 or visible.shape[0] != b or not 0 < visible.shape[1] <= patches:
            raise ValueError(f"visible has shape {visible.shape}: it must be [{b},V] with V in 1..{patches}")
        x = self._with_class(jnp.take_along_axis(x, visible[..., None], axis=1))
        for block in self.blocks:
            x = block(x, None, None, False)
        return self.norm(x)[:, int(self.image_size > 0) :]

    def _check(self) -> None:
        if list(self.taps) != sorted(set(self.taps)) or not all(0 < tap <= self.depth for tap in self.taps):
            raise ValueError(f"taps={self.taps}: give block numbers from 1 to {self.depth}, in ascending order")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} is a probability: give a value from 0 to below 1")

    def _embed(self, image: jax.Array) -> jax.Array:
        """[B,H,W,C] -> [B,P,D], patches row by row, positions added."""
        grid = patch_grid(image.shape[1], image.shape[2], self.patch)
        x = self.patch_embedding(image)
        if self.image_size:
            side = self.image_size // self.patch
            positions = resize_positions(self.positions[0, 1:].reshape(side, side, -1), *grid)
        else:
            positions = sine_positions(*grid, x.shape[-1])
        x += positions.astype(x.dtype)
        return x.reshape(len(x), -1, x.shape[-1])

    def _with_class(self, x: jax.Array) -> jax.Array:
        """[B,V,D] -> [B,1+V,D], the class token first; x itself if the model has none."""
        if not self.image_size:
            return x
        token = (self.class_token + self.positions[:, :1]).astype(x.dtype)
        return jnp.concatenate([jnp.broadcast_to(token, (len(x), *token.shape[1:])), x], axis=1)

    def _map(self, tokens: jax.Array, image: jax.Array) -> jax.Array:
        """Tokens -> map [B,h,w,D] of the patch tokens."""
        tokens = tokens[:, 1:] if self.image_size else tokens
        return tokens.reshape(len(tokens), image.shape[1] // self.patch, -1, tokens.shape[-1])
