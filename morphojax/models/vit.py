"""A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) whose last map becomes a pyramid for a decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.attention import Block, layer_norm, sine_positions
from morphojax.models.features import Features
from morphojax.models.layers import Dtype
from morphojax.models.unet import unfold

STRIDES = (4, 8, 16)  # of the pyramid


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of height x width pixels. Raises ValueError naming the sizes that would fit."""
    if height % patch or width % patch or not height or not width:
        low = [max(side // patch, 1) * patch for side in (height, width)]
        high = [max(-(-side // patch), 1) * patch for side in (height, width)]
        fitting = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys((tuple(low), tuple(high))))
        raise ValueError(f"an image of {height}x{width} is not whole patches of {patch}x{patch}: {fitting} would fit")
    return height // patch, width // patch


class FeaturePyramid(nn.Module):
    """The last map [B,h,w,D] of a transformer, at stride `patch` -> maps at strides 4, 8 and 16.

    The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527, section 3): a transposed 2x2 convolution of
    stride 2 for each doubling (it halves the channels), the identity, or max-pooling; then LayerNorm. The convolutions
    that ViTDet puts on each level are left to the decoder. Raises ValueError when patch is not a power of two.
    """

    patch: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        if self.patch < 1 or self.patch.bit_count() != 1:
            raise ValueError(f"a pyramid of strides {STRIDES} needs a patch that is a power of two, not {self.patch}")
        return tuple(self._level(x.astype(self.dtype), stride) for stride in STRIDES)

    def _level(self, x: jax.Array, stride: int) -> jax.Array:
        name = f"stride{stride}"
        doublings = max(self.patch // stride, 1).bit_length() - 1
        for i in range(1, doublings + 1):
            x = self._double(x, f"{name}_up{i}")
            if i < doublings:
                x = nn.gelu(layer_norm(self.dtype, f"{name}_up{i}_norm")(x), approximate=False)
        x = _max_pool(x, max(stride // self.patch, 1))
        return layer_norm(self.dtype, f"{name}_norm")(x)

    def _double(self, x: jax.Array, name: str) -> jax.Array:
        """[B,h,w,C] -> [B,2h,2w,C/2]. As no two outputs overlap, the transposed convolution is a matrix product."""
        _, h, w, c = x.shape
        x = nn.Dense(4 * (c // 2), use_bias=False, dtype=self.dtype, name=name)(x)
        return unfold(x, 2, 2 * h, 2 * w)


def _max_pool(x: jax.Array, factor: int) -> jax.Array:
    """[B,h,w,C] -> [B,ceil(h/factor),ceil(w/factor),C]; windows at the end may be smaller."""
    if factor == 1:
        return x
    padding = [(0, -side % factor) for side in x.shape[1:3]]
    return nn.max_pool(x, (factor, factor), (factor, factor), padding)


class VisionTransformer(nn.Module):
    """Image [B,H,W,C], any C, H and W multiples of patch -> Features: pyramid at strides 4, 8, 16, and pooled.

    width is the number of channels of a head, so that the tokens have D = heads * width. Patches are embedded by a
    convolution whose kernel is its stride, and told apart by fixed sines of their place in the grid, which serve any
    size of image. There is no class token: pooled is the mean of the patch tokens after the last LayerNorm, float32
    (both as in Beyer et al. 2022, arXiv:2205.01580). Nothing differs in training: no dropout, no batch statistics.
    Parameters of the pyramid are the submodule `pyramid`; where only `pooled` is used, no gradient reaches them.

    Raises ValueError when the image is not whole patches, or when D is not a multiple of 4.
    """

    width: int = 64
    depth: int = 12
    heads: int = 3
    patch: int = 8
    dtype: Dtype = jnp.float32

    def setup(self):
        stride = (self.patch, self.patch)
        self.patch_embedding = nn.Conv(self.heads * self.width, stride, stride, "VALID", dtype=self.dtype)
        # Numbered from 1: layer-wise learning rates read the depth off the name, and the patch embedding is 0.
        self.blocks = [Block(self.heads, dtype=self.dtype, name=f"block{i}") for i in range(1, self.depth + 1)]
        self.norm = layer_norm(self.dtype, "norm")
        self.pyramid = FeaturePyramid(self.patch, self.dtype)

    def __call__(self, image: jax.Array, train: bool) -> Features:
        del train
        tokens = self._transform(self._embed(image))
        maps = tokens.reshape(len(tokens), image.shape[1] // self.patch, -1, tokens.shape[-1])
        return Features(self.pyramid(maps), tokens.mean(1, dtype=jnp.float32))

    def encode_visible(self, image: jax.Array, visible: jax.Array) -> jax.Array:
        """The tokens of some patches, which see each other and nothing else of the image (He et al. 2022, arXiv:2111.06377).

        image: [B,H,W,C]. visible: int [B,V], the patches by number, row by row. Returns [B,V,D] in the dtype of computation.
        Raises ValueError when the image is not whole patches, or when visible is not B rows of 1 to all patches.
        """
        x = self._embed(image)
        b, patches, _ = x.shape
        if visible.ndim != 2 or visible.shape[0] != b or not 0 < visible.shape[1] <= patches:
            raise ValueError(f"visible has shape {visible.shape}: it must be [{b},V] with V in 1..{patches}")
        return self._transform(jnp.take_along_axis(x, visible[..., None], axis=1))

    def _embed(self, image: jax.Array) -> jax.Array:
        """[B,H,W,C] -> [B,P,D], patches row by row, positions added."""
        grid = patch_grid(image.shape[1], image.shape[2], self.patch)
        x = self.patch_embedding(image)
        x += sine_positions(*grid, x.shape[-1]).astype(x.dtype)
        return x.reshape(len(x), -1, x.shape[-1])

    def _transform(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
