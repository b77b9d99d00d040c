"""Optimizers and schedules by name, on optax."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Levels = Mapping[str, Mapping[str, str]]  # {"encoder": {submodule: level}, "decoder": ...}, each from input to output


def make_schedule(*, learning_rate: float, schedule: str, warmup: float, updates: int) -> Callable[[Any], Any]:
    """Learning rate by update.

    Args:
        learning_rate: the peak.
        schedule: `cosine` (to zero at the last update) or `constant`, both after a linear warm-up
            from zero.
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


def make_optimizer(
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    warmup: float,
    clip_norm: float,
    accumulate: int,
    steps: int,
    layer_decay: float = 1.0,
    levels: Levels | None = None,
) -> tuple[optax.GradientTransformation, Callable[[int], float]]:
    """An optimizer and its learning rate as a function of the step.

    Args:
        name: `adam` (weight decay added to the gradient, as PyTorch's Adam does and Hager et al.
            2023 trained) or `adamw` (decoupled).
        weight_decay: not applied to vectors (biases, BatchNorm), whichever optimizer.
        clip_norm: global gradient norm above which gradients are scaled down; 0 never.
        accumulate: batches whose gradients are averaged before one update; the steps of a run count
            batches.
        layer_decay: factor of the learning rate from one level of the encoder to the level before
            it, see `layer_scales`.
        levels: those of the model, for layer_decay.

    Raises:
        ValueError: an unknown name or schedule, or an accumulation that does not divide the steps.
            The message names the key.
    """
    if accumulate < 1 or steps % accumulate:
        raise ValueError(
            f"config.optimizer.accumulate={accumulate} must be at least 1 and divide the {steps} steps of the run"
        )
    rate = make_schedule(learning_rate=learning_rate, schedule=schedule, warmup=warmup, updates=steps // accumulate)
    decay = optax.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    chains = {
        "adam": [decay, optax.scale_by_adam()],
        "adamw": [optax.scale_by_adam(), decay],
    }
    if name not in chains:
        raise ValueError(f"config.optimizer.name={name!r} is unknown: choose one of {', '.join(chains)}")
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    parts += [*chains[name], optax.scale_by_learning_rate(rate)]
    if layer_decay != 1.0:
        parts.append(_scale_by_level((levels or {}).get("encoder", {}), layer_decay))
    optimizer = optax.chain(*parts)
    if accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, every_k_schedule=accumulate).gradient_transformation()
    return optimizer, lambda step: float(rate(step // accumulate))


def submodule(path: Sequence[str]) -> str:
    """The direct submodule of encoder or decoder that a parameter lies in; with one encoder per
    plane, the submodule of that plane's encoder.
    """
    return path[2] if path[1].startswith("encoders_") else path[1]


def layer_scales(params: PyTree, levels: Mapping[str, str], decay: float) -> PyTree:
    """Factors decay**d, where d is the distance of a parameter's level from the output.

    d is 0 in the decoder, 1 in the encoder's last level, and largest in its first.
    Layer-wise learning rates keep the general, early layers of a pretrained encoder closer to where
    they were (Clark et al. 2020, ELECTRA). A submodule of the encoder without a level (a final
    norm) counts with the decoder.

    levels: the encoder's submodules with their levels, from input to output.
    """
    order = list(dict.fromkeys(levels.values()))

    def scale(path: tuple[Any, ...]) -> float:
        names = names_of(path)
        level = levels.get(submodule(names)) if names[0] == "encoder" else None
        return 1.0 if level is None else decay ** (len(order) - order.index(level))

    return jax.tree_util.tree_map_with_path(lambda path, _: scale(path), params)


def names_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along the path of a leaf in a tree of parameters."""
    return tuple(str(getattr(entry, "key", entry)) for entry in path)


def _scale_by_level(levels: Mapping[str, str], decay: float) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, params: jax.tree.map(jnp.multiply, updates, layer_scales(updates, levels, decay))
    )
