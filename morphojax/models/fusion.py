"""Table and image together, and predictions of columns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.attention import Block, layer_norm, sine_positions
from morphojax.models.layers import Dtype


class CrossAttended(nn.Module):
    """(tokens [B,T,D], maps [B,K,h,w,C], slice_mask bool [B,K]) -> [B,T,width].

    Table tokens as queries of all places of all slices: blocks of self-attention, cross-attention (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.2.3) and MLP, and a last LayerNorm. A place is its features, projected and normalised,
    plus the sine embedding of its (y, x); nothing tells one slice from another. Masked slices have no influence at all,
    whatever they hold; a subject without valid slices keeps what its tokens say.
    Raises ValueError when width is not a multiple of heads and of 4, or the mask does not fit the maps.
    """

    width: int
    heads: int
    layers: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, maps: jax.Array, slice_mask: jax.Array) -> jax.Array:
        if slice_mask.shape != maps.shape[:2]:
            raise ValueError(f"slice_mask must be {maps.shape[:2]}, as maps {maps.shape} ask, got {slice_mask.shape}")
        b, k, h, w = maps.shape[:4]
        # Zero weight is not enough against a NaN.
        maps = jnp.where(slice_mask[..., None, None, None], maps, 0)
        places = layer_norm(self.dtype, "map_norm")(nn.Dense(self.width, dtype=self.dtype, name="map_dense")(maps))
        places = (places + sine_positions(h, w, self.width).astype(self.dtype)).reshape(b, k * h * w, self.width)
        mask = jnp.repeat(slice_mask, h * w, axis=1)
        x = nn.Dense(self.width, dtype=self.dtype, name="token_dense")(tokens)
        for i in range(1, self.layers + 1):
            x = Block(self.heads, dtype=self.dtype, name=f"block{i}")(x, places, mask)
        return layer_norm(self.dtype, "norm")(x)


class ColumnHead(nn.Module):
    """Tokens of columns [B,F,D] -> float32 [B, sum of cardinalities]: a linear map of its own for each column.

    A continuous column (cardinality 1) gives its value, a categorical one the logits of its codes, columns in their
    order. Raises ValueError when there is not one token per cardinality (a class token is to be left out).
    """

    cardinalities: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        if tokens.shape[1] != len(self.cardinalities):
            raise ValueError(f"{tokens.shape[1]} tokens, cardinalities name {len(self.cardinalities)} columns")
        outputs = sum(self.cardinalities)
        initial = nn.initializers.lecun_normal(in_axis=-1, out_axis=0)
        kernel = self.param("kernel", initial, (outputs, tokens.shape[-1]), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (outputs,), jnp.float32)
        own = jnp.repeat(tokens.astype(self.dtype), np.array(self.cardinalities), axis=1, total_repeat_length=outputs)
        return jnp.einsum("bsd,sd->bs", own, kernel).astype(jnp.float32) + bias
