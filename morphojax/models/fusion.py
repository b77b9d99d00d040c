"""Cross-attention from table tokens to image maps, and predictions of table columns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.attention import Block, sine_positions
from morphojax.models.layers import Dtype, layer_norm


class CrossAttended(nn.Module):
    """(tokens [B,T,D], maps [B,K,h,w,C], slice_mask bool [B,K]) -> [B,T,width].

    Table tokens attend to all positions of all slices: blocks of self-attention, cross-attention
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3) and MLP, and a last LayerNorm. The
    context is the features of every position, projected and normalised, plus the sine embedding of
    its (y, x); the order of slices has no influence. Masked slices have no influence, even with
    NaN. For a subject without valid slices the cross-attention adds nothing.
    Raises ValueError when width is not a multiple of heads and of 4, or the mask does not fit the
    maps.
    """

    width: int
    heads: int
    layers: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, maps: jax.Array, slice_mask: jax.Array) -> jax.Array:
        if slice_mask.shape != maps.shape[:2]:
            raise ValueError(
                f"slice_mask must have shape {maps.shape[:2]} for maps {maps.shape}, got {slice_mask.shape}"
            )
        b, k, h, w = maps.shape[:4]
        # A zero attention weight does not suffice: zero times NaN is NaN.
        maps = jnp.where(slice_mask[..., None, None, None], maps, 0)
        context = layer_norm(self.dtype, "map_norm")(nn.Dense(self.width, dtype=self.dtype, name="map_dense")(maps))
        context = (context + sine_positions(h, w, self.width).astype(self.dtype)).reshape(b, k * h * w, self.width)
        mask = jnp.repeat(slice_mask, h * w, axis=1)
        x = nn.Dense(self.width, dtype=self.dtype, name="token_dense")(tokens)
        for i in range(1, self.layers + 1):
            x = Block(self.heads, dtype=self.dtype, name=f"block{i}")(x, context, mask)
        return layer_norm(self.dtype, "norm")(x)


class ColumnHead(nn.Module):
    """Column tokens [B,F,D] -> float32 [B, sum of cardinalities]: a separate linear map for each
    column.

    A continuous column (cardinality 1) gives its value, a categorical one the logits of its codes,
    in column order.
    Raises ValueError when there is not one token per cardinality (leave a class token out).
    """

    cardinalities: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        if tokens.shape[1] != len(self.cardinalities):
            raise ValueError(f"{tokens.shape[1]} tokens for {len(self.cardinalities)} cardinalities")
        outputs = sum(self.cardinalities)
        initial = nn.initializers.lecun_normal(in_axis=-1, out_axis=0)
        kernel = self.param("kernel", initial, (outputs, tokens.shape[-1]), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (outputs,), jnp.float32)
        repeats = np.array(self.cardinalities)
        token_of_output = jnp.repeat(tokens.astype(self.dtype), repeats, axis=1, total_repeat_length=outputs)
        return jnp.einsum("bsd,sd->bs", token_of_output, kernel).astype(jnp.float32) + bias
