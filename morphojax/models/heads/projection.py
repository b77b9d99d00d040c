"""The parts that heads share."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import BatchNorm, Dtype


class Projection(nn.Module):
    """[B,D] -> float32 [B,features], not normalised: (Linear-BatchNorm-ReLU) x (layers - 1), then
    Linear.

    norm_last adds a BatchNorm at the end. hidden_units None: D units. layers=1: one Linear.
    """

    features: int
    hidden_units: int | None = None
    layers: int = 2
    norm_last: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        hidden_units = x.shape[-1] if self.hidden_units is None else self.hidden_units
        for i in range(1, self.layers):
            # No bias: BatchNorm would subtract it.
            x = nn.Dense(hidden_units, use_bias=False, dtype=self.dtype, name=f"dense{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train))
        last = nn.Dense(self.features, use_bias=not self.norm_last, dtype=self.dtype, name=f"dense{self.layers}")
        x = last(x)
        if self.norm_last:
            x = BatchNorm(dtype=self.dtype, name=f"norm{self.layers}")(x, train)
        return x.astype(jnp.float32)


class Temperature(nn.Module):
    """() -> log of the temperature, fixed or learned."""

    value: float
    learned: bool

    @nn.compact
    def __call__(self) -> jax.Array:
        log_temperature = jnp.float32(math.log(self.value))
        return self.param("log_temperature", lambda _: log_temperature) if self.learned else log_temperature
