"""A task is a frozen record of pure functions: what the loop needs to know of one kind of training,
and no more.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from morphojax.train.state import TrainState

Batch = Mapping[str, Any]
StepFunction = Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]


class TrainingError(RuntimeError):
    """Training that cannot go on. The message names the step and what to do."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of training.

    init:          (pretrained) -> TrainState; pure, so that the loop may jit it and create the
                   state sharded.
    pretrained:    arrays that `init` puts in place of random ones; {} from scratch.
    steps:         total number of batches.
    stages:        (first step, train_step) pairs in order of their first step. More than one where
                   the trained modules change during the run: each is compiled once.
                   train_step(state, constants, batch) -> (state, scalar metrics).
    evaluate:      (state, constants, batch) -> arrays; the loop collects them over the validation
                   set for `summarise`.
    summarise:     list of `evaluate`'s outputs (NumPy, whole batches) -> scalars to log.
    constants:     arrays that never change, replicated on the devices once; `seed` among them.
    train_batches: an endless iterator with get_state and set_state.
    validation_batches: () -> one pass over the validation set; None where there is none.
    best:          (metric of `summarise`, True if higher is better): which checkpoint is kept as
                   best.
    pictures:      (state, constants, batch) -> arrays for `draw`; jitted. The batch is the first of
                   the validation set where `draw_validation`, else the one about to be trained on.
    draw_validation: see `pictures`.
    draw:          (output of `pictures`, batch) -> {tag: uint8 [H,W,3]}.
    learning_rate: step -> float, for the log.
    examples:      examples in a global batch.
    diagnose:      (state, constants, batch) -> expensive scalars, for the batch about to be trained
                   on (after the last step: for the last one); None for none.
    diagnose_every: in steps.
    reference:     (state at step 0, constants) -> what `diagnose` compares with: it finds it in the
                   constants as `start`. A resumed run computes it again from `init`. None for
                   nothing.
    monitor:       (step, metrics) -> None; called in order for every step, when its metrics are
                   fetched. A resumed run first calls it with the means in the log of the steps
                   before. It stops the run by raising TrainingError. None for none.
    """

    init: Callable[[Any], TrainState]
    pretrained: Any
    steps: int
    stages: Sequence[tuple[int, StepFunction]]
    evaluate: Callable[[TrainState, Any, Batch], dict[str, Any]]
    summarise: Callable[[list[dict[str, Any]]], dict[str, float]]
    constants: Any
    train_batches: Any
    validation_batches: Callable[[], Iterable[Batch]] | None
    best: tuple[str, bool]
    pictures: Callable[[TrainState, Any, Batch], Any]
    draw_validation: bool
    draw: Callable[[Any, Batch], dict[str, np.ndarray]]
    learning_rate: Callable[[int], float]
    examples: int
    diagnose: Callable[[TrainState, Any, Batch], dict[str, jax.Array]] | None = None
    diagnose_every: int = 0
    reference: Callable[[TrainState, Any], Any] | None = None
    monitor: Callable[[int, Mapping[str, float]], None] | None = None
