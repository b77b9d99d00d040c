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
    averaged: PyTree  # a moving average of the parameters; {} where nothing needs one

    @classmethod
    def create(cls, variables: PyTree, optimizer: optax.GradientTransformation, averaged: bool = False) -> "TrainState":
        params = variables["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            averaged=jax.tree.map(jnp.copy, params) if averaged else {},  # copies: the step donates its buffers
        )

    @property
    def variables(self) -> PyTree:
        return {"params": self.params, "batch_stats": self.batch_stats}
