"""Optimizers and schedules by name, on optax."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any

LAST = ("norm", "pyramid")  # a transformer's: behind its last block, and new to a task that reads maps


def make_schedule(*, learning_rate: float, schedule: str, warmup: float, updates: int) -> Callable[[Any], Any]:
    """Learning rate by update.

    Args:
        learning_rate: the peak.
        schedule: `cosine` (to zero at the last update) or `constant`, both after a linear warm-up from zero.
        warmup: length of the warm-up as a fraction of all updates.
        updates: number of optimizer updates in the run.
    """
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"config.optimizer.warmup={warmup} is a fraction of the run: give a value from 0 to below 1")
    first = round(warmup * updates)
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(updates - first, 1))
    elif schedule == "constant":
        after = optax.constant_schedule(learning_rate)
    else:
        raise ValueError(f"config.optimizer.schedule={schedule!r} is unknown: choose cosine or constant")
    if not first:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, first), after], [first])


def build(
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    warmup: float,
    clip_norm: float,
    accumulate: int,
    steps: int,
    scales: Callable[[PyTree], PyTree] | None = None,
) -> tuple[optax.GradientTransformation, Callable[[int], float]]:
    """An optimizer and its learning rate as a function of the step.

    Args:
        name: `adam` (weight decay added to the gradient, as PyTorch's Adam does and Hager et al. 2023 trained) or `adamw` (decoupled).
        weight_decay: not applied to vectors (biases, BatchNorm), whichever optimizer.
        clip_norm: global gradient norm above which gradients are scaled down; 0 never.
        accumulate: batches whose gradients are averaged before one update; the steps of a run count batches.
        scales: params -> tree of factors on each parameter's update (layer-wise learning rates).
    """
    if accumulate < 1 or steps % accumulate:
        raise ValueError(
            f"config.optimizer.accumulate={accumulate} must be at least 1 and divide the {steps} steps of the run"
        )
    rate = make_schedule(learning_rate=learning_rate, schedule=schedule, warmup=warmup, updates=steps // accumulate)

    def matrices(params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    decay = optax.add_decayed_weights(weight_decay, mask=matrices)
    chains = {
        "adam": [decay, optax.scale_by_adam()],
        "adamw": [optax.scale_by_adam(), decay],
    }
    if name not in chains:
        raise ValueError(f"config.optimizer.name={name!r} is unknown: choose one of {', '.join(chains)}")
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    parts += [*chains[name], optax.scale_by_learning_rate(rate)]
    if scales is not None:
        parts.append(optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, scales(updates))))
    optimizer = optax.chain(*parts)
    if accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, every_k_schedule=accumulate).gradient_transformation()
    return optimizer, lambda step: float(rate(step // accumulate))


def layer(path: Sequence[str]) -> str:
    """The layer of a module that a parameter lies in; of an encoder for each plane, the layer of that plane's."""
    return path[2] if path[1].startswith("encoders_") else path[1]


def layer_scales(params: PyTree, *, decay: float) -> PyTree:
    """Factors decay**d, d = the distance of a parameter's layer from the output: decoder 0, the encoder's last stage 1, ..., its stem last.

    Layer-wise learning rates keep the general, early layers of a pretrained encoder closer to where they were (Clark et al. 2020, ELECTRA).
    An encoder's submodules say their depth by name: a stage's number is the first number in it; one without a number is the stem,
    or, if it is in LAST, counts with the decoder.
    """

    def depth(path: tuple[str, ...]) -> int:
        name = layer(path)
        if path[0] != "encoder" or name in LAST:
            return -1
        number = re.search(r"\d+", name)
        return int(number.group()) if number and not name.startswith("stem") else 0

    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    deepest = max(depth(path) for path in paths)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: decay ** (0 if (d := depth(_names(path))) < 0 else deepest - d + 1), params
    )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "key", entry)) for entry in path)
