"""What training changes, as data."""

from typing import Any, Self

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
    collections: dict[str, PyTree]  # the other variable collections by name, such as batch_stats
    opt_state: PyTree
    ema: dict[
        str, PyTree
    ]  # moving average of all variables: {"params": ..., "batch_stats": ...}; {} where none is kept

    @classmethod
    def create(cls, variables: PyTree, optimizer: optax.GradientTransformation, keep_ema: bool = False) -> Self:
        """The state at step 0. The EMA weights start as a copy of the variables."""
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            collections=collections,
            opt_state=optimizer.init(variables["params"]),
            ema=jax.tree.map(jnp.copy, dict(variables)) if keep_ema else {},  # copies: the step donates its buffers
        )

    @property
    def variables(self) -> dict[str, PyTree]:
        """What flax's `apply` takes: {"params": ..., "batch_stats": ..., ...}."""
        return {"params": self.params, **self.collections}

    def with_ema_weights(self) -> Self:
        """The same state with the EMA weights as its variables, for evaluation."""
        collections = {name: tree for name, tree in self.ema.items() if name != "params"}
        return self.replace(  # pyrefly: ignore
            params=self.ema["params"], collections=collections
        )
