"""Masked autoencoding (He et al. 2022, arXiv:2111.06377): the choice of masked patches, and the
decoder.

The encoder gets the visible patches alone (`encode_visible`), the decoder their tokens and a mask
token for every masked patch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.attention import Block, sine_positions
from morphojax.models.layers import Dtype, layer_norm


def mask_patches(key: jax.Array, batch: int, patches: int, fraction: float) -> tuple[jax.Array, jax.Array]:
    """Chooses round(fraction * patches) masked patches in each image, uniformly among all such
    choices.

    Returns visible int32 [batch,V], the other patches in ascending order, and masked bool
    [batch,patches].
    Raises ValueError when no patch would be masked, or none visible.
    """
    masked_count = round(fraction * patches) if 0 < fraction < 1 else 0
    if not 0 < masked_count < patches:
        raise ValueError(
            f"a mask fraction of {fraction} must hide at least one of {patches} patches and leave at least one visible"
        )
    order = jnp.argsort(jax.random.uniform(key, (batch, patches)), axis=1)
    # Ranks instead of a threshold on the random numbers: equal numbers would mask a patch too many.
    masked = jnp.argsort(order, axis=1) < masked_count
    return jnp.sort(order[:, masked_count:], axis=1).astype(jnp.int32), masked


class PatchDecoder(nn.Module):
    """(tokens [B,V,D], visible int [B,V], grid (rows, columns) of patches) -> float32
    [B,P,patch*patch*channels].

    visible: patch numbers of the tokens, row by row, each at most once. Every other patch starts as
    one learned mask token. All tokens get fixed sine positions. The prediction holds all P = rows *
    columns patches, including the visible ones; the values of a patch go row by row, channels last.
    width: features of the decoder's tokens.

    Raises ValueError when tokens, visible and grid do not fit, heads does not divide width, or
    width is not a multiple of 4.
    """

    patch: int
    channels: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, visible: jax.Array, grid: tuple[int, int]) -> jax.Array:
        b, v, _ = tokens.shape
        patches = grid[0] * grid[1]
        if visible.shape != (b, v) or v > patches:
            raise ValueError(
                f"tokens {tokens.shape} and visible {visible.shape} do not fit {grid[0]}x{grid[1]} patches"
            )
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,), jnp.float32)
        x = jnp.broadcast_to(mask_token.astype(self.dtype), (b, patches, self.width))
        x = _put(x, visible, self._dense(self.width, "embedding")(tokens))
        x += sine_positions(*grid, self.width).reshape(patches, self.width).astype(self.dtype)
        for i in range(1, self.depth + 1):
            x = Block(self.heads, dtype=self.dtype, name=f"block{i}")(x)
        x = layer_norm(self.dtype, "norm")(x)
        return self._dense(self.patch**2 * self.channels, "prediction")(x).astype(jnp.float32)

    def _dense(self, features: int, name: str) -> nn.Module:
        return nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)


# With vmap over examples, the scatter stays local to a shard.
_put = jax.vmap(lambda x, index, values: x.at[index].set(values))
