"""Encoders of table rows: (values [B,F], missing bool [B,F], train, masked=None) -> TableFeatures.

masked [B,F], float or bool, gates the columns: at 1 neither a column's value nor whether it is
missing has any influence; at 0 the column is used as it is. It enters as a factor, so a loss has a
derivative with respect to it. A value that is missing, or masked with gate 1, may be NaN.

encoded_inputs=True: the same parameters, for inputs that are encoded already: values [B,sum of
cardinalities], finite, with a weight for every class (as of `one_hot`), and missing float [B,F]
from 0 to 1. So an output has a derivative with respect to every class and missing flag.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.attention import Block
from morphojax.models.features import TableFeatures
from morphojax.models.layers import BatchNorm, Dtype, layer_norm


def one_hot(values: jax.Array, cardinalities: Sequence[int]) -> jax.Array:
    """values [B,F], codes in columns with cardinality k > 1 -> [B, sum of cardinalities], in column
    order.

    A code outside 0..k-1 gives k zeros. Raises ValueError when values do not have one column per
    cardinality.
    """
    _check(cardinalities, values)
    columns = [
        values[:, i : i + 1] if k == 1 else jax.nn.one_hot(values[:, i].astype(jnp.int32), k, dtype=values.dtype)
        for i, k in enumerate(cardinalities)
    ]
    return jnp.concatenate(columns, axis=-1)


def _check(cardinalities: Sequence[int], *arrays: jax.Array) -> None:
    for x in arrays:
        if x.shape[-1] != len(cardinalities):
            raise ValueError(f"the table has {x.shape[-1]} columns for {len(cardinalities)} cardinalities")


def _without_nan(
    values: jax.Array, missing: jax.Array, masked: jax.Array | None, cardinalities: Sequence[int]
) -> tuple[jax.Array, jax.Array | None]:
    """(values, gate float or None): unused values that are not finite become 0, or -1 (no code) in
    a category.

    A value is unused when it is missing, or masked with gate 1; NaN times a zero gate would still
    be NaN. Finite values stay, so that the derivative with respect to the gate includes the value
    of a masked column.
    """
    _check(cardinalities, values, missing, *(() if masked is None else (masked,)))
    gate = None if masked is None else masked.astype(jnp.float32)
    unused = missing if gate is None else missing | (gate >= 1)
    neutral = np.where(np.array(cardinalities) > 1, -1.0, 0.0).astype(values.dtype)
    return jnp.where(unused & ~jnp.isfinite(values), neutral, values), gate


class TabularMLP(nn.Module):
    """pooled [B,hidden_units], also the only token: (Linear-BatchNorm-ReLU) x (layers - 1), Linear.

    The defaults are those of Hager et al. 2023 (arXiv:2303.14080): one-hot categories, two layers
    of 2048 units, He-normal weights. A missing value enters as its imputed value; missing_flags
    appends the missing mask, which distinguishes imputed from measured values. A masked column is
    zero in all its inputs, like a continuous column at its mean; mask_flags appends the gates.
    """

    cardinalities: tuple[int, ...]
    hidden_units: int = 2048
    layers: int = 2
    missing_flags: bool = False
    mask_flags: bool = False
    dtype: Dtype = jnp.float32
    encoded_inputs: bool = False

    @nn.compact
    def __call__(
        self, values: jax.Array, missing: jax.Array, train: bool, masked: jax.Array | None = None
    ) -> TableFeatures:
        gate = masked
        if not self.encoded_inputs:
            values, gate = _without_nan(values, missing, masked, self.cardinalities)
            values = one_hot(values, self.cardinalities)
        x = self._inputs(values, missing, gate)
        for i in range(1, self.layers + 1):
            x = nn.Dense(
                self.hidden_units, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"dense{i}"
            )(x)
            if i < self.layers:
                x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train))
        return TableFeatures(tokens=x[:, None], pooled=x)

    def _inputs(self, x: jax.Array, missing: jax.Array, gate: jax.Array | None) -> jax.Array:
        """x: of `one_hot`."""
        flags = missing.astype(x.dtype)
        if gate is not None:
            x *= 1 - jnp.repeat(gate, np.array(self.cardinalities), axis=-1, total_repeat_length=x.shape[-1])
            flags *= 1 - gate
        parts = [x]
        if self.missing_flags:
            parts.append(flags)
        if self.mask_flags:
            parts.append(jnp.zeros_like(flags) if gate is None else gate)
        return jnp.concatenate(parts, axis=-1)


class TabularTransformer(nn.Module):
    """tokens [B,1+F,width], a class token and one per column; pooled [B,width] is the class token.

    A column's token is its column embedding plus its value embedding: a continuous value times a
    vector of the column, or a vector of the code (zero for a code outside 0..k-1). A missing value
    has one vector that all columns share, a masked value another; the gate interpolates. Tokenised
    and initialised as in FT-Transformer (Gorishniy et al. 2021, arXiv:2106.11959, section 3.3),
    then plain pre-norm blocks (without its ReGLU and dropout) and a last LayerNorm. `train` has no
    effect.
    """

    cardinalities: tuple[int, ...]
    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    dtype: Dtype = jnp.float32
    encoded_inputs: bool = False

    @nn.compact
    def __call__(
        self, values: jax.Array, missing: jax.Array, train: bool, masked: jax.Array | None = None
    ) -> TableFeatures:
        del train
        if self.encoded_inputs:
            gate, absent = masked, missing[..., None]
            embedded = (1 - absent) * self._embed_weighted(values) + absent * self._vectors("missing", 1)
        else:
            values, gate = _without_nan(values, missing, masked, self.cardinalities)
            embedded = jnp.where(missing[..., None], self._vectors("missing", 1), self._embed(values))
        mask = self._vectors("mask", 1)  # created with and without a gate, so that both have the same parameters
        if gate is not None:
            embedded = (1 - gate[..., None]) * embedded + gate[..., None] * mask
        columns = embedded + self._vectors("columns", len(self.cardinalities))
        class_token = jnp.broadcast_to(self._vectors("class", 1), (len(values), 1, self.width))
        x = jnp.concatenate([class_token, columns], axis=1).astype(self.dtype)
        for i in range(1, self.layers + 1):
            x = Block(self.heads, self.mlp_ratio, self.dtype, name=f"block{i}")(x)
        x = layer_norm(self.dtype, "norm")(x)
        return TableFeatures(tokens=x, pooled=x[:, 0])

    def _embed(self, values: jax.Array) -> jax.Array:
        """[B,F] -> [B,F,width], from one parameter with a vector per continuous column and per
        code.
        """
        k = np.array(self.cardinalities)
        vectors = self._vectors("values", int(k.sum()))
        code = jnp.where(k > 1, values, 0).astype(jnp.int32)
        factor = jnp.where(k > 1, (code >= 0) & (code < k), values)
        return factor[..., None] * vectors[k.cumsum() - k + jnp.clip(code, 0, k - 1)]

    def _embed_weighted(self, weights: jax.Array) -> jax.Array:
        """`_embed` of one-hot values: [B,sum of cardinalities] -> [B,F,width]."""
        ends = np.cumsum(self.cardinalities)
        vectors = self._vectors("values", int(ends[-1]))
        parts = [slice(end - k, end) for end, k in zip(ends, self.cardinalities, strict=True)]
        return jnp.stack([weights[:, part] @ vectors[part] for part in parts], axis=1)

    def _vectors(self, name: str, count: int) -> jax.Array:
        """Parameter [count,width], uniform in +-1 / sqrt(width)."""
        initial = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return self.param(name, initial, (count, self.width), jnp.float32)
