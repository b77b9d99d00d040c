"""An exponential moving average (EMA) of the weights: of parameters and running statistics
alike.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from morphojax.objectives.self_distillation import moving_average

PyTree = Any
Decay = Callable[[jax.Array], jax.Array]  # step -> the weight of the old average in the new one


def constant_decay(decay: float, accumulate: int = 1) -> Decay:
    """min(decay, 1 - 1 / (u + 1)) at update u: the plain mean of the first weights, then an average
    with a fixed horizon.

    Args:
        decay: from 0 to below 1; 0.99 averages about the last 100 updates.
        accumulate: batches per update. The average rests while gradients accumulate, because no
            parameter moves.

    Raises:
        ValueError: decay out of range.
    """
    if not 0 < decay < 1:
        raise ValueError(f"config.ema.decay={decay}: give a number between 0 and 1, or 0 for no EMA weights")
    return rest_while_accumulating(lambda step: jnp.minimum(decay, 1 - 1 / (step // accumulate + 1)), accumulate)


def rest_while_accumulating(decay: Decay, accumulate: int) -> Decay:
    """`decay` at the steps that update the parameters, 1 at the others."""
    return lambda step: jnp.where((step + 1) % accumulate == 0, decay(step), 1.0)


def update(ema: PyTree, variables: PyTree, decay: jax.Array) -> PyTree:
    """decay * ema + (1 - decay) * variables, leaf by leaf; integers (counters) are copied."""

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return moving_average(old, new, decay) if jnp.issubdtype(old.dtype, jnp.floating) else new

    return jax.tree.map(average, ema, variables)
