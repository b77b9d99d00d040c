"""What training changes, as data."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """Everything a checkpoint holds of the model. Behaviour lives in the step functions."""

    step: jax.Array  # int32 scalar: batches seen
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree

    @classmethod
    def create(cls, variables: PyTree, optimizer: optax.GradientTransformation) -> "TrainState":
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
        )

    @property
    def variables(self) -> PyTree:
        return {"params": self.params, "batch_stats": self.batch_stats}
