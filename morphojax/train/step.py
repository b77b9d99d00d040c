"""The part of a train step that every task shares: gradient, update, running statistics, norms."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from morphojax.objectives.self_distillation import moving_average
from morphojax.train import dynamics
from morphojax.train.state import TrainState
from morphojax.train.task import Batch, StepFunction

PyTree = Any
# (params, state, constants, batch) -> (loss, (metrics, batch_stats)); differentiated in params, which are those of the state
Loss = Callable[[PyTree, TrainState, Any, Batch], tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    frozen: Collection[str] = (),
    momentum: Callable[[jax.Array], jax.Array] | None = None,
) -> StepFunction:
    """A pure train step.

    Args:
        loss: see `Loss`; its randomness comes from `state.step`.
        frozen: top-level modules whose parameters do not move, whatever the optimizer (momentum, weight decay) would do.
        momentum: step -> the share that the moving average keeps of itself; None where `state.averaged` is empty.

    The metrics gain `loss` and `grad_norm/<module>` for every top-level module, and for every depth of encoder and decoder
    (`dynamics.norms`).
    """

    def train_step(state: TrainState, constants: Any, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, (metrics, batch_stats)), grads = gradient(state.params, state, constants, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        moves: PyTree = updates
        updates = {name: jax.tree.map(jnp.zeros_like, u) if name in frozen else u for name, u in moves.items()}
        params = optax.apply_updates(state.params, updates)
        averaged = state.averaged
        if momentum is not None:
            averaged = moving_average(averaged, params, momentum(state.step))
        norms = dynamics.norms(grads) | {name: optax.global_norm(g) for name, g in grads.items()}
        metrics = metrics | {"loss": value} | {f"grad_norm/{name}": norm for name, norm in norms.items()}
        return (
            TrainState(
                step=state.step + 1,
                params=params,
                batch_stats=batch_stats,
                opt_state=opt_state,
                averaged=averaged,
            ),
            metrics,
        )

    return train_step
