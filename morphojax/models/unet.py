"""A U-Net decoder (Ronneberger et al. 2015, arXiv:1505.04597) for any feature pyramid."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import Dtype, conv, film, normalisation


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """Space to depth: [B,H,W,C] -> [B,ceil(H/factor),ceil(W/factor),factor*factor*C].

    Every factor x factor block of pixels becomes one pixel, its channels ordered by y, x, channel.
    Zeros fill a block that reaches beyond the image.
    """
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % factor), (0, -x.shape[2] % factor), (0, 0)))
    return jnp.concatenate([x[:, i::factor, j::factor] for i in range(factor) for j in range(factor)], axis=-1)


def upsample(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B,h,w,C] -> [B,height,width,C] by nearest neighbour.

    If a stride-f convolution led from (height, width) to (h, w), each value is repeated f times, so
    that value i covers f*i .. f*i+f-1, and the surplus of an odd size is cut at the end.
    """
    fy, fx = (max(1, round(large / small)) for small, large in zip(x.shape[1:3], (height, width), strict=True))
    if x.shape[1:3] != (-(-height // fy), -(-width // fx)):
        return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "nearest")
    return jnp.repeat(jnp.repeat(x, fy, axis=1), fx, axis=2)[:, :height, :width]


class UNetDecoder(nn.Module):
    """((image [B,H,W,C], *pyramid finest first), train, condition) -> features
    [B,ceil(H/2),ceil(W/2),widths[0]].

    The image itself is the finest skip connection, at half its size (`space_to_depth`);
    `towers.Segmenter` brings the logits back to full size. Convolutions at full size took two
    thirds of the decoder's time on the CPU and were no better on ACDC (docs/results.md). If the
    pyramid begins at full size, the decoder works at full size.

    widths: channels at each level, finest first, without the coarsest map; a shorter pyramid uses
    the first ones.
    condition: [B,M] or None; scales and shifts the channels of every level (`layers.film`), without
    effect at first.
    norm: "batch" or "group" (`layers.normalisation`).

    Raises ValueError when there are more levels than widths.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    dtype: Dtype = jnp.float32
    norm: str = "batch"

    @property
    def levels(self) -> Mapping[str, str]:
        """Submodule -> depth level, from input to output: level 0 is the finest, computed last.

        `level<i>_film` exists only with a condition, and a short pyramid has only the first levels.
        """
        parts = ("reduce", "conv1", "norm1", "conv2", "norm2", "film")
        return {f"level{i}_{part}": f"level{i}" for i in reversed(range(len(self.widths))) for part in parts}

    @nn.compact
    def __call__(self, pyramid: tuple[jax.Array, ...], train: bool, condition: jax.Array | None = None) -> jax.Array:
        image, *skips, x = pyramid
        finest = (*skips, x)[0]
        image = space_to_depth(image, 1 if finest.shape[1:3] == image.shape[1:3] else 2).astype(finest.dtype)
        if skips and skips[0].shape[1:3] == image.shape[1:3]:
            skips[0] = jnp.concatenate([skips[0], image], axis=-1)
        else:
            skips.insert(0, image)
        if len(skips) > len(self.widths):
            raise ValueError(f"the decoder needs {len(skips)} widths for this pyramid, it has {len(self.widths)}")
        for level in reversed(range(len(skips))):
            skip, width = skips[level], self.widths[level]
            # A 1x1 convolution commutes with nearest-neighbour upsampling; before it, it costs a
            # quarter.
            x = conv(width, 1, dtype=self.dtype, name=f"level{level}_reduce")(x)
            x = upsample(x, skip.shape[1], skip.shape[2])
            x = jnp.concatenate([x, skip.astype(self.dtype)], axis=-1)
            for i in (1, 2):
                x = conv(width, 3, dtype=self.dtype, name=f"level{level}_conv{i}")(x)
                x = normalisation(self.norm, self.dtype, f"level{level}_norm{i}")(x, train)
                if i == 2 and condition is not None:
                    x = film(x, condition, f"level{level}_film")
                x = nn.relu(x)
        return x
