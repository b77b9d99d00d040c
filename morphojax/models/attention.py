"""The transformer block, and the embeddings of places."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.layers import Attention, Dense, Dtype, gelu, gram, materialised


class Block(nn.Module):
    """Pre-norm transformer block: x [B,N,D] -> [B,N,D].

    Self-attention; then, where a context [B,M,D'] is given, attention to it; then an MLP of mlp_ratio * D units with
    the exact GELU. Each part reads a LayerNorm (epsilon 1e-6) of x and is added to x (Vaswani et al. 2017,
    arXiv:1706.03762; normalised as in Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 2-3). The context enters as it is:
    to normalise it is up to the caller. context_mask bool [B,M]: places that are False have no weight, and a row whose
    context has no True gets nothing from it. What they hold must be finite.

    drop_path: in training each part is left out of an example with this probability, and scaled by 1 / (1 - drop_path) where it
    stays (stochastic depth, Huang et al. 2016, arXiv:1603.09382); needs an rng `draws`.

    No other dropout; biases everywhere; Xavier-uniform weights; softmax in float32 whatever the dtype.
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
        x = materialised(x.astype(self.dtype))
        drop = nn.Dropout(self.drop_path, (1, 2), deterministic=not train, rng_collection="draws", name="drop_path")
        x = x + drop(self._attention("self_attention")(layer_norm(self.dtype, "self_norm")(x)))
        if context is not None:
            x = x + drop(self._read(layer_norm(self.dtype, "context_norm")(x), context, context_mask))
        y = self._dense(round(self.mlp_ratio * width), "dense1")(layer_norm(self.dtype, "mlp_norm")(x))
        return x + drop(self._dense(width, "dense2")(gelu(y)))

    def _read(self, x: jax.Array, context: jax.Array, mask: jax.Array | None) -> jax.Array:
        """What x [B,N,D] takes from the places of context [B,M,D'] that mask allows: [B,N,D]."""
        attention = self._attention("context_attention")
        if mask is None:
            return attention(x, context)
        return jnp.where(mask.any(-1)[:, None, None], attention(x, context, mask=mask[:, None, None]), 0)

    def _attention(self, name: str) -> nn.Module:
        return Attention(
            self.heads,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            attention_fn=attend,
            force_fp32_for_softmax=True,
            name=name,
        )

    def _dense(self, features: int, name: str) -> nn.Module:
        return Dense(features, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None, **settings: Any
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, as flax's modules call for it: q [B,N,H,d], k and v [B,M,H,d] -> [B,N,H,d].

    On the CPU, where the weights of all heads together leave the cache, they are made one head after the other, and again for the
    gradient instead of kept (Rabe and Staats 2021, arXiv:2112.05682): on one core value and gradient of [8,784,3,64] took 0.58 of
    flax's time, of [8,256,3,64] 0.8. With a mask, and elsewhere, it is flax's.
    """
    n, d = query.shape[1], query.shape[3]
    if mask is not None or jax.default_backend() != "cpu" or n * key.shape[1] < 256**2:
        return nn.dot_product_attention(query, key, value, mask=mask, **settings)
    scaled = query.astype(jnp.float32) / math.sqrt(d)
    heads = (x.swapaxes(1, 2).reshape(-1, x.shape[1], d) for x in (scaled, key, value))
    y = _by_head(*(x.astype(jnp.float32) for x in heads))
    return y.reshape(len(query), -1, n, d).swapaxes(1, 2).astype(query.dtype)


@jax.custom_vjp
def _by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v for every one of the heads: [heads,N,d], [heads,M,d], [heads,M,d] -> [heads,N,d]."""
    return _by_head_forward(q, k, v)[0]


def _by_head_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    def head(qkv: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v = qkv
        logits = q @ k.T
        largest = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(-1, keepdims=True)
        return weights @ v / total, largest + jnp.log(total)

    y, normaliser = jax.lax.map(head, (q, k, v))
    return y, (q, k, v, y, normaliser)


def _by_head_backward(residuals: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    q, k, v, y, normaliser = residuals

    def head(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        q, k, v, normaliser, gradient, expected = arrays
        weights = jnp.exp(q @ k.T - normaliser)
        grad_logits = weights * (gradient @ v.T - expected)
        return grad_logits @ k, gram(grad_logits, q), gram(weights, gradient)

    # Of the gradient of a weight, what softmax takes away again: its mean by the weights.
    expected = (gradient * y).sum(-1, keepdims=True)
    return jax.lax.map(head, (q, k, v, normaliser, gradient, expected))


_by_head.defvjp(_by_head_forward, _by_head_backward)


def layer_norm(dtype: Dtype, name: str) -> nn.Module:
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450), statistics in float32."""
    # The fast variance is a difference of two large numbers where a mean is far from zero.
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def sine_positions(height: int, width: int, features: int, longest: float = 10000.0) -> jax.Array:
    """Fixed embedding of the places of a map: float32 [height,width,features].

    The first half of the features tells y, the second x: each the sines, then the cosines, of the coordinate (in
    places, from 0) times longest^(-i/n), i = 0..n-1, n = features / 4 (Vaswani et al. 2017, arXiv:1706.03762, section
    3.5, for each axis). Raises ValueError when features is not a multiple of 4.
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
    """A learned embedding of the places of a map, for another map: [h,w,D] -> [height,width,D], bicubic, float32.

    Keys' kernel with a = -0.75, pixel centres aligned, the border repeated, no smoothing where the map shrinks: what published
    vision transformers are resampled with. (jax.image.resize has a = -0.5, weighs the border otherwise and smooths.)
    """
    rows, columns = (_cubic(n, m) for n, m in zip(positions.shape, (height, width), strict=False))
    return jnp.einsum("yh,hwd,xw->yxd", rows, positions, columns, precision="highest")


def _cubic(size: int, wanted: int) -> np.ndarray:
    """Weights float32 [wanted,size] of bicubic interpolation along one axis (Keys 1981, eq. 4)."""
    weights, a = np.zeros((wanted, size)), -0.75
    centres = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    for tap in range(-1, 3):
        place = np.floor(centres) + tap
        d = np.abs(centres - place)
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(weights, (np.arange(wanted), np.clip(place, 0, size - 1).astype(int)), np.where(d <= 1, near, far))
    return weights.astype(np.float32)
