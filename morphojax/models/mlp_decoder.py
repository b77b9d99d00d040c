"""The light decoder of SegFormer (Xie et al. 2021, arXiv:2105.15203, section 3.2) for any feature
pyramid.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import Dtype, conv, film, normalisation

_MOST_MAPS = 8  # of a pyramid; `levels` names a projection for each


class MLPDecoder(nn.Module):
    """((image [B,H,W,C], *pyramid finest first), train, condition) -> features [B,h,w,width], h x w
    of the finest map.

    Every map is projected to `width` channels and resized to the finest one (bilinear, pixel
    centres aligned). A linear map, normalisation and ReLU fuse them. The image is ignored: all
    decoders have the same arguments. No dropout.
    norm: "batch" as in the paper, or "group". condition: as in UNetDecoder, for the fused map.
    """

    width: int = 128
    norm: str = "batch"
    dtype: Dtype = jnp.float32

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule -> depth level, from input to output: the projections, then what fuses them.

        A pyramid of n maps has the first n projections; `fuse_film` exists only with a condition.
        """
        projections = {f"level{i}_project": f"level{i}" for i in reversed(range(_MOST_MAPS))}
        return projections | {"fuse": "fuse", "fuse_norm": "fuse", "fuse_film": "fuse"}

    @nn.compact
    def __call__(self, pyramid: tuple[jax.Array, ...], train: bool, condition: jax.Array | None = None) -> jax.Array:
        maps = pyramid[1:]
        b, height, width, _ = maps[0].shape
        projected = []
        for level, x in enumerate(maps):
            x = nn.Dense(self.width, dtype=self.dtype, name=f"level{level}_project")(x)
            projected.append(jax.image.resize(x, (b, height, width, self.width), "linear"))
        x = conv(self.width, 1, dtype=self.dtype, name="fuse")(jnp.concatenate(projected, axis=-1))
        x = normalisation(self.norm, self.dtype, "fuse_norm")(x, train)
        return nn.relu(x if condition is None else film(x, condition, "fuse_film"))
