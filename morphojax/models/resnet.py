"""ResNet (He et al. 2015, arXiv:1512.03385) in torchvision's layout: bottlenecks stride on their
3x3 ("v1.5").
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.features import Features
from morphojax.models.layers import Dtype, conv, normalisation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int = 1
    dtype: Dtype = jnp.float32
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = conv(self.width, 3, self.stride, self.dtype, name="conv1")(x)
        y = nn.relu(normalisation(self.norm, self.dtype, "norm1")(y, train))
        y = conv(self.width, 3, 1, self.dtype, name="conv2")(y)
        y = normalisation(self.norm, self.dtype, "norm2")(y, train)
        return nn.relu(y + _shortcut(x, y, self, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the width, and a shortcut."""

    width: int
    stride: int = 1
    dtype: Dtype = jnp.float32
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = conv(self.width, 1, 1, self.dtype, name="conv1")(x)
        y = nn.relu(normalisation(self.norm, self.dtype, "norm1")(y, train))
        y = conv(self.width, 3, self.stride, self.dtype, name="conv2")(y)
        y = nn.relu(normalisation(self.norm, self.dtype, "norm2")(y, train))
        y = conv(4 * self.width, 1, 1, self.dtype, name="conv3")(y)
        y = normalisation(self.norm, self.dtype, "norm3")(y, train)
        return nn.relu(y + _shortcut(x, y, self, train))


def _shortcut(x: jax.Array, y: jax.Array, block: BasicBlock | Bottleneck, train: bool) -> jax.Array:
    """The identity, or a 1x1 convolution where the block changes the shape."""
    if block.stride == 1 and x.shape[-1] == y.shape[-1]:
        return x
    x = conv(y.shape[-1], 1, block.stride, block.dtype, name="shortcut_conv")(x)
    return normalisation(block.norm, block.dtype, "shortcut_norm")(x, train)


class ResNet(nn.Module):
    """Image [B,H,W,C], any C -> Features at strides 2, 4, 8, 16, 32 (pooled: mean of the last map,
    float32).

    width: channels of the stem; stage i has width * 2**i (four times that with bottlenecks).
    norm: "batch" as published, or "group" (`layers.normalisation`).
    remat: compute blocks again for the gradient instead of keeping their activations.
    """

    depths: tuple[int, ...]
    block: type[nn.Module]
    width: int = 64
    dtype: Dtype = jnp.float32
    norm: str = "batch"
    remat: bool = False

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule -> depth level, from input to output."""
        blocks = {f"stage{s}_block{i + 1}": f"stage{s}" for s, n in enumerate(self.depths, 1) for i in range(n)}
        return {"stem_conv": "stem", "stem_norm": "stem"} | blocks

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        x = conv(self.width, 7, 2, self.dtype, name="stem_conv")(image)
        x = nn.relu(normalisation(self.norm, self.dtype, "stem_norm")(x, train))
        pyramid = [x]
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}"
                x = block(self.width * 2**stage, stride, self.dtype, self.norm, name=name)(x, train)
            pyramid.append(x)
        return Features(tuple(pyramid), x.mean((1, 2), dtype=jnp.float32))
