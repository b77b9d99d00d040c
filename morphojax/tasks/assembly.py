"""From the functions of a task and the spec of a run to a `Task`: optimizer, stages and initial
weights, once for all tasks.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, Self

import jax
import ml_collections
import numpy as np
from absl import logging

from morphojax.tasks.common import Streams
from morphojax.train import ema, rng, transfer
from morphojax.train.optimizer import Levels, make_optimizer
from morphojax.train.state import TrainState
from morphojax.train.step import Loss, make_train_step
from morphojax.train.task import Batch, Task

FREEZE = ("none", "encoder")


class Spec(Protocol):
    """What `assemble` needs to know of the spec of a run.

    train_encoder: False: the encoder is frozen.
    levels:        depth levels of encoder and decoder, see `optimizer.Levels`.
    with_seed:     the spec with another seed, which may be traced.
    """

    @property
    def train_encoder(self) -> bool: ...

    @property
    def levels(self) -> Levels: ...

    def with_seed(self, seed: Any) -> Self: ...


@dataclasses.dataclass(frozen=True)
class TaskParts:
    """What a task gives to `assemble` besides its functions.

    stages:          (first step, spec) in order; each is a stage of training.
    streams:         its batches.
    constants:       arrays that the functions read, see `Task`.
    images:          the preprocessing of the images, for the run directory.
    best:            see `Task`.
    draw_validation: see `Task`.
    monitor:         see `Task`.
    ema_decay:       an objective's own schedule of EMA weights; None: that of `config.ema`.
    """

    stages: Sequence[tuple[int, Spec]]
    streams: Streams
    constants: Mapping[str, Any]
    images: Mapping[str, Any]
    best: tuple[str, bool]
    draw_validation: bool = False
    monitor: Callable[[int, Mapping[str, float]], None] | None = None
    ema_decay: ema.Decay | None = None


def assemble(config: ml_collections.ConfigDict, functions: ModuleType, parts: TaskParts) -> Task:
    """The task of a config.

    functions: a module with `init_variables`, `loss`, `evaluate`, `summarise`,
        `pictures`, `draw` and, if it has dynamics, `diagnose` and perhaps `reference`. Each takes a
        `spec`.

    Raises ValueError, naming the key, for invalid optimizer or EMA settings, and the errors of
    `transfer.load`.
    """
    _, spec = parts.stages[-1]
    optimizer, learning_rate = make_optimizer(
        **config.optimizer.to_dict(), steps=parts.streams.steps, levels=spec.levels
    )
    decay = parts.ema_decay
    if config.ema.decay:
        decay = ema.constant_decay(config.ema.decay, config.optimizer.accumulate)
    steps = []
    for first, stage in parts.stages:
        frozen = () if stage.train_encoder else ("encoder",)
        step = make_train_step(_loss(functions, stage), optimizer, frozen=frozen, ema_decay=decay, levels=stage.levels)
        steps.append((first, step))
    every = config.dynamics_every if hasattr(functions, "diagnose") else 0
    dynamics = [name for name in ("diagnose", "reference") if every and hasattr(functions, name)]

    def bind(name: str) -> functools.partial[Any]:
        return functools.partial(getattr(functions, name), spec=spec)

    init_variables = bind("init_variables")

    def init_state(pretrained: Mapping[str, jax.Array]) -> TrainState:
        """The state at step 0: random variables, with the pretrained arrays in their places."""
        return TrainState.create(transfer.merge(init_variables(), pretrained), optimizer, decay is not None)

    return Task(
        init=init_state,
        pretrained=_initial_weights(config, parts.images, jax.eval_shape(init_variables)),
        steps=parts.streams.steps,
        stages=tuple(steps),
        evaluate=_seeded(functions.evaluate, spec),
        summarise=bind("summarise"),
        constants={**parts.constants, "seed": rng.as_array(config.seed)},
        train_batches=parts.streams.train,
        validation_batches=parts.streams.validation_batches,
        best=parts.best,
        pictures=_seeded(functions.pictures, spec),
        draw_validation=parts.draw_validation,
        draw=bind("draw"),
        learning_rate=learning_rate,
        examples=config.batch_size,
        diagnose_every=every,
        monitor=parts.monitor,
        **{name: _seeded(getattr(functions, name), spec) for name in dynamics},
    )


def _loss(functions: ModuleType, spec: Spec) -> Loss:
    """The task's loss, with the seed of the constants: see `rng.as_array`."""

    def loss(params: Any, state: TrainState, constants: Any, batch: Batch) -> Any:
        return functions.loss(params, state, constants, batch, spec=spec.with_seed(constants["seed"]))

    return loss


def _seeded(function: Callable[..., Any], spec: Spec) -> Callable[..., Any]:
    """The same for a function (state, constants, ...) of a task."""

    @functools.wraps(function)  # the log of compilations names it
    def seeded(state: TrainState, constants: Any, *batch: Batch) -> Any:
        return function(state, constants, *batch, spec=spec.with_seed(constants["seed"]))

    return seeded


def trains_encoder(freeze: str, choices: Sequence[str] = FREEZE) -> bool:
    """Whether the encoder learns at the start of the parts. Raises ValueError for a choice that the
    task does not have.
    """
    if freeze not in choices:
        raise ValueError(f"config.freeze={freeze!r} is unknown: choose {', '.join(choices[:-1])} or {choices[-1]}")
    return freeze == "none"


def _initial_weights(
    config: ml_collections.ConfigDict, images: Mapping[str, Any], target: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays that `config.init_from` puts in place of random ones; {} without."""
    if config.freeze == "encoder" and not config.init_from:
        logging.warning("config.freeze=encoder without config.init_from: a random encoder stays random")
    return transfer.load(transfer.Origin(config.init_from, config.init_checkpoint, config.init_weights), images, target)
