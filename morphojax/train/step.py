"""The part of a train step that every task shares: gradient, update, EMA weights, gradient
norms.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from morphojax.train import dynamics, ema
from morphojax.train.state import TrainState
from morphojax.train.task import Batch, StepFunction

PyTree = Any
# (params, state, constants, batch) -> (loss, (metrics, collections)). It is differentiated with
# respect to params, the parameters of the state; the collections are the state's, updated (running
# statistics).
Loss = Callable[[PyTree, TrainState, Any, Batch], tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, PyTree]]]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    frozen: Collection[str] = (),
    ema_decay: ema.Decay | None = None,
    levels: Mapping[str, Mapping[str, str]] | None = None,
) -> StepFunction:
    """A pure train step.

    Args:
        loss: see `Loss`; its randomness comes from `state.step`.
        frozen: top-level modules whose parameters do not move, whatever the optimizer (momentum,
            weight decay) would do.
        ema_decay: of the EMA weights; None where `state.ema` is empty.
        levels: the depth levels of encoder and decoder, see `dynamics.norms`.

    The metrics gain `loss`, `grad_norm/<module>` for every top-level module, and
    `grad_norm/<module>/<level>` for every level of encoder and decoder.
    """

    def train_step(state: TrainState, constants: Any, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, (metrics, collections)), grads = gradient(state.params, state, constants, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        by_module: dict[str, PyTree] = dict(updates)  # pyrefly: ignore
        updates = {n: jax.tree.map(jnp.zeros_like, u) if n in frozen else u for n, u in by_module.items()}
        params: PyTree = optax.apply_updates(state.params, updates)
        averaged = state.ema
        if ema_decay is not None:
            averaged = ema.update(averaged, {"params": params, **collections}, ema_decay(state.step))
        norms = dynamics.norms(grads, levels or {}) | {name: optax.global_norm(g) for name, g in grads.items()}
        metrics = metrics | {"loss": value} | {f"grad_norm/{name}": norm for name, norm in norms.items()}
        moved = TrainState(state.step + 1, params, collections, opt_state, averaged)
        return moved, metrics

    return train_step
