"""Encoders of table rows."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import BatchNorm, Dtype


def one_hot(values: jax.Array, cardinalities: Sequence[int]) -> jax.Array:
    """values [B,F], codes in the columns with cardinality k > 1 -> [B, sum of cardinalities], columns in their order.

    A code outside 0..k-1 gives k zeros. Raises ValueError when values do not have one column per cardinality.
    """
    if values.shape[-1] != len(cardinalities):
        raise ValueError(f"the table has {values.shape[-1]} columns, cardinalities name {len(cardinalities)}")
    columns = [
        values[:, i : i + 1] if k == 1 else jax.nn.one_hot(values[:, i].astype(jnp.int32), k, dtype=values.dtype)
        for i, k in enumerate(cardinalities)
    ]
    return jnp.concatenate(columns, axis=-1)


class TabularMLP(nn.Module):
    """(values [B,F], missing bool [B,F], train) -> [B,hidden]: (Linear-BatchNorm-ReLU) x (layers - 1), Linear.

    The defaults are the published ones of Hager et al. 2023 (arXiv:2303.14080): one-hot categories, two layers of 2048
    units, He-normal weights. missing_flags appends the missing mask to the input, so that an imputed value can be told
    from a measured one.
    """

    cardinalities: tuple[int, ...]
    hidden: int = 2048
    layers: int = 2
    missing_flags: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array, missing: jax.Array, train: bool) -> jax.Array:
        x = one_hot(values, self.cardinalities)
        if self.missing_flags:
            x = jnp.concatenate([x, missing.astype(x.dtype)], axis=-1)
        for i in range(1, self.layers + 1):
            x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"dense{i}")(x)
            if i < self.layers:
                x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train))
        return x
