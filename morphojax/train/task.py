"""A task is a frozen record of pure functions: what the loop needs to know of pretraining or segmentation, and no more."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from morphojax.train.state import TrainState

Batch = Mapping[str, Any]
StepFunction = Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of training.

    init:          (pretrained) -> TrainState; pure, so that the loop may jit it and have the state born sharded.
    pretrained:    arrays that `init` puts in place of random ones; empty from scratch.
    steps:         total number of batches.
    phases:        (first step, train_step) pairs in order of their first step. More than one where what is trained changes under way:
                   each is compiled once. train_step(state, constants, batch) -> (state, metrics of scalars).
    eval_step:     (state, constants, batch) -> arrays; the loop gathers them over the pass and hands them to `summarise`.
    summarise:     list of eval_step's outputs (NumPy, whole batches) -> scalars to log.
    diagnose:      (state, constants, batch) -> scalars that are dear to compute, of the batch about to be trained on (after the last
                   step: of the last one); None for none.
    diagnose_every: in steps.
    remember:      (state, constants) -> what `diagnose` compares with, of the state at step 0: `diagnose` finds it in the constants as
                   `start`. A resumed run computes it anew, from `init`. None for nothing.
    constants:     arrays that never change, replicated on the devices once.
    train_batches: an endless iterator with get_state and set_state.
    eval_batches:  () -> one pass over the validation set; None where there is none.
    best:          (metric of `summarise`, True if higher is better): which checkpoint is kept as best.
    pictures:      (state, constants, batch) -> arrays for `draw`; jitted. The batch is the first of the validation set where
                   `pictures_of_validation`, else the one about to be trained on.
    draw:          (pictures' output, batch) -> {tag: uint8 [H,W,3]}.
    learning_rate: step -> float, for the log.
    examples:      examples in a global batch.
    """

    init: Callable[[Any], TrainState]
    pretrained: Any
    steps: int
    phases: Sequence[tuple[int, StepFunction]]
    eval_step: Callable[[TrainState, Any, Batch], dict[str, jax.Array]]
    summarise: Callable[[list[dict[str, np.ndarray]]], dict[str, float]]
    constants: Any
    train_batches: Any
    eval_batches: Callable[[], Iterable[Batch]] | None
    best: tuple[str, bool]
    pictures: Callable[[TrainState, Any, Batch], Any]
    pictures_of_validation: bool
    draw: Callable[[Any, Batch], dict[str, np.ndarray]]
    learning_rate: Callable[[int], float]
    examples: int
    diagnose: Callable[[TrainState, Any, Batch], dict[str, jax.Array]] | None = None
    diagnose_every: int = 0
    remember: Callable[[TrainState, Any], Any] | None = None
