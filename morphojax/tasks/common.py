"""What every task reads in the same way: its subjects, its streams and its number of steps."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Self

import jax
import ml_collections
import numpy as np

from morphojax.data.input.stream import Joined, Stream, StreamSpec
from morphojax.data.store.dataset import Dataset
from morphojax.tasks import cohort
from morphojax.train import devices
from morphojax.train.task import Batch


@dataclasses.dataclass(frozen=True)
class Subjects:
    """The subjects of a run, by index in the dataset.

    train:      training subjects.
    validation: validation subjects; may be empty.
    pool:       all subjects of the training splits, of which `train` may be a few.
    """

    train: np.ndarray
    validation: np.ndarray
    pool: np.ndarray

    def restrict(self, mask: np.ndarray) -> Self:
        """Only those for which `mask`, bool [subjects of the dataset], is True."""
        chosen = (indices[mask[indices]] for indices in (self.train, self.validation, self.pool))
        return type(self)(*chosen)


def select_subjects(config: ml_collections.ConfigDict, dataset: Dataset) -> Subjects:
    """By `config.data`, and the dataset's validation split where `config.eval_every` asks for it.
    Raises ValueError.
    """
    devices.check_batch_size(config.batch_size)
    data = config.data
    train = cohort.select_subjects(
        dataset, split_names=data.splits, subjects=data.subjects, fraction=data.fraction, seed=config.seed
    )
    held_out = np.flatnonzero(dataset.splits == "val") if config.eval_every else np.zeros(0, int)
    pool = np.flatnonzero(np.isin(dataset.splits, list(data.splits)))
    return Subjects(train, np.setdiff1d(held_out, train), pool)


@dataclasses.dataclass(frozen=True)
class Streams:
    """The batches of a run.

    train:      training batches.
    validation: one pass over the validation subjects; None where there are none.
    spec:       how `train` is read.
    steps:      training batches in the run.
    """

    train: Stream | Joined
    validation: Stream | None
    spec: StreamSpec
    steps: int

    @property
    def validation_batches(self) -> Callable[[], Iterable[Batch]] | None:
        validation = self.validation
        return None if validation is None else lambda: iter(validation)


def make_streams(
    config: ml_collections.ConfigDict, subjects: Subjects, make: Callable[[np.ndarray, StreamSpec], Stream]
) -> Streams:
    """make: (indices of subjects, spec) -> stream, the same for training and validation."""
    spec = StreamSpec(
        batch_size=config.batch_size,
        seed=config.seed,
        train=True,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
    )
    train, validation = make(subjects.train, spec), None
    if len(subjects.validation):
        validation = make(subjects.validation, dataclasses.replace(spec, seed=0, train=False, workers=0))
    return Streams(train, validation, spec, count_steps(config, train.examples))


def count_steps(config: ml_collections.ConfigDict, examples: int) -> int:
    """Batches in the run, from `config.steps` or `config.epochs`: one of them is given, the other
    is 0. Raises ValueError.
    """
    if (config.steps > 0) == (config.epochs > 0) or min(config.steps, config.epochs) < 0:
        raise ValueError(
            f"give one of config.steps={config.steps} and config.epochs={config.epochs}, and 0 for the other"
        )
    if config.steps:
        return config.steps
    accumulate = config.optimizer.accumulate
    steps = round(config.epochs * max(examples // config.batch_size, 1))
    return max(steps // accumulate, 1) * accumulate
