"""The transformer block, and position embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.layers import Dtype, gelu, layer_norm


class Block(nn.Module):
    """Pre-norm transformer block: x [B,N,D] -> [B,N,D].

    Self-attention; then, if a context [B,M,D'] is given, cross-attention to it; then an MLP of
    mlp_ratio * D units with the exact GELU. Each part reads a LayerNorm (epsilon 1e-6) of x and is
    added to x (Vaswani et al. 2017, arXiv:1706.03762; normalised as in Dosovitskiy et al. 2021,
    arXiv:2010.11929, eq. 2-3). The context is not normalised here. context_mask bool [B,M]: False
    gives a position no weight; if a row has no True, its context adds nothing. Values at masked
    positions must be finite.

    drop_path: in training, probability that an example skips a part; a part that is kept is divided
    by 1 - drop_path (stochastic depth, Huang et al. 2016, arXiv:1603.09382). Needs an rng `draws`.

    No other dropout; biases everywhere; Xavier-uniform weights; softmax in float32 whatever the
    dtype.
    Raises ValueError when heads does not divide D.
    """

    heads: int
    mlp_ratio: float = 4.0
    dtype: Dtype = jnp.float32
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {width}")
        x = x.astype(self.dtype)
        drop = nn.Dropout(self.drop_path, (1, 2), deterministic=not train, rng_collection="draws", name="drop_path")
        x = x + drop(self._attention("self_attention")(layer_norm(self.dtype, "self_norm")(x)))
        if context is not None:
            x = x + drop(self._cross_attention(layer_norm(self.dtype, "context_norm")(x), context, context_mask))
        y = self._dense(round(self.mlp_ratio * width), "dense1")(layer_norm(self.dtype, "mlp_norm")(x))
        return x + drop(self._dense(width, "dense2")(gelu(y)))

    def _cross_attention(self, x: jax.Array, context: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Attention of x [B,N,D] to the positions of context [B,M,D'] that mask allows: [B,N,D]."""
        attention = self._attention("context_attention")
        if mask is None:
            return attention(x, context)
        return jnp.where(mask.any(-1)[:, None, None], attention(x, context, mask=mask[:, None, None]), 0)

    def _attention(self, name: str) -> nn.Module:
        return nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            force_fp32_for_softmax=True,
            name=name,
        )

    def _dense(self, features: int, name: str) -> nn.Module:
        return nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)


def sine_positions(height: int, width: int, features: int, longest: float = 10000.0) -> jax.Array:
    """Fixed position embedding of a map: float32 [height,width,features].

    The first half of the features encodes y, the second x: the sines, then the cosines, of the
    coordinate (an integer from 0) times longest^(-i/n), i = 0..n-1, n = features / 4 (Vaswani et
    al. 2017, arXiv:1706.03762, section 3.5, for each axis). Raises ValueError when features is not
    a multiple of 4.
    """
    if features <= 0 or features % 4:
        raise ValueError(f"a sine embedding of two axes needs a multiple of 4 features, not {features}")
    n = features // 4
    frequency = longest ** (-jnp.arange(n) / n)

    def axis(length: int) -> jax.Array:
        phase = jnp.arange(length)[:, None] * frequency
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1)

    y = jnp.broadcast_to(axis(height)[:, None], (height, width, 2 * n))
    x = jnp.broadcast_to(axis(width)[None], (height, width, 2 * n))
    return jnp.concatenate([y, x], -1)


def resize_positions(positions: jax.Array, height: int, width: int) -> jax.Array:
    """A learned position embedding, resampled (bicubic): [h,w,D] -> float32 [height,width,D].

    As published vision transformers are resampled: Keys' kernel with a = -0.75, pixel centres
    aligned, the border repeated, no smoothing where the map shrinks. (jax.image.resize differs: a =
    -0.5, border weights, smoothing.)
    """
    rows, columns = (_cubic(n, m) for n, m in zip(positions.shape, (height, width), strict=False))
    return jnp.einsum("yh,hwd,xw->yxd", rows, positions, columns, precision="highest")


def _cubic(size: int, new_size: int) -> np.ndarray:
    """Bicubic interpolation along one axis: weights float32 [new_size,size] (Keys 1981, eq. 4)."""
    weights, a = np.zeros((new_size, size)), -0.75
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    for tap in range(-1, 3):
        position = np.floor(centres) + tap
        d = np.abs(centres - position)
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        column = np.clip(position, 0, size - 1).astype(int)
        np.add.at(weights, (np.arange(new_size), column), np.where(d <= 1, near, far))
    return weights.astype(np.float32)
