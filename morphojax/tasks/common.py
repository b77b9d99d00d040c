"""What every task sets up in the same way: subjects, streams, optimizer, training stages and first
weights.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from absl import logging

from morphojax.data.input.stream import Stream, StreamSpec
from morphojax.data.store.dataset import Dataset
from morphojax.tasks import cohort
from morphojax.train import devices, ema, optimizer, transfer
from morphojax.train.step import Loss, make_train_step
from morphojax.train.task import Batch, StepFunction

FREEZE = ("none", "encoder")


@dataclasses.dataclass(frozen=True)
class Subjects:
    """The subjects of a run, by index in the dataset: those that train, and held-out ones for
    validation (perhaps none).
    """

    train: np.ndarray
    validation: np.ndarray

    def having(self, kept: np.ndarray) -> "Subjects":
        """Only those for which `kept`, bool [subjects of the dataset], is True."""
        return Subjects(self.train[kept[self.train]], self.validation[kept[self.validation]])

    @property
    def all(self) -> np.ndarray:
        return np.union1d(self.train, self.validation).astype(int)


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
    return Subjects(train, np.setdiff1d(held_out, train))


@dataclasses.dataclass(frozen=True)
class Streams:
    """Training batches, and those of one pass over the validation subjects."""

    train: Stream
    validation: Stream | None

    @property
    def validation_batches(self) -> Callable[[], Iterable[Batch]] | None:
        validation = self.validation
        return None if validation is None else lambda: iter(validation)


def make_streams(
    config: ml_collections.ConfigDict, subjects: Subjects, make: Callable[[np.ndarray, StreamSpec], Stream]
) -> Streams:
    """make: (indices of subjects, spec) -> stream, the same for training and validation."""
    train = make(subjects.train, train_spec(config, config.batch_size))
    if not len(subjects.validation):
        return Streams(train, None)
    spec = dataclasses.replace(train_spec(config, config.batch_size), seed=0, train=False, workers=0)
    return Streams(train, make(subjects.validation, spec))


def train_spec(config: ml_collections.ConfigDict, batch_size: int) -> StreamSpec:
    """How this process reads training batches of `batch_size` examples over all processes."""
    return StreamSpec(
        batch_size=batch_size,
        seed=config.seed,
        train=True,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
    )


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


@dataclasses.dataclass(frozen=True)
class Training:
    """How the parameters of a run are updated.

    levels:    of encoder and decoder, see `optimizer.Levels`.
    ema_decay: of the EMA weights; None: none are kept.
    """

    optimizer: optax.GradientTransformation
    learning_rate: Callable[[int], float]
    levels: Mapping[str, Mapping[str, str]]
    ema_decay: ema.Decay | None

    @property
    def keeps_ema(self) -> bool:
        return self.ema_decay is not None

    def step(self, loss: Loss, train_encoder: bool) -> StepFunction:
        """The train step of a loss; without `train_encoder` the encoder's parameters do
        not move.
        """
        frozen = () if train_encoder else ("encoder",)
        return make_train_step(loss, self.optimizer, frozen=frozen, ema_decay=self.ema_decay, levels=self.levels)


def training(config: ml_collections.ConfigDict, steps: int, modules: Mapping[str, Any]) -> Training:
    """From `config.optimizer` and `config.ema`.

    modules: {"encoder": module, "decoder": module}, those that the model has. Raises ValueError,
    naming the key.
    """
    levels = {name: module.levels for name, module in modules.items()}
    settings = config.optimizer.to_dict()
    made, learning_rate = optimizer.make_optimizer(**settings, steps=steps, levels=levels)
    decay = ema.constant_decay(config.ema.decay, config.optimizer.accumulate) if config.ema.decay else None
    return Training(made, learning_rate, levels, decay)


def trains_encoder(freeze: str, choices: Sequence[str] = FREEZE) -> bool:
    """Whether the encoder learns at the start of the run. Raises ValueError for a choice that the
    task does not have.
    """
    if freeze not in choices:
        raise ValueError(f"config.freeze={freeze!r} is unknown: choose {', '.join(choices[:-1])} or {choices[-1]}")
    return freeze == "none"


def first_weights(
    config: ml_collections.ConfigDict, images: Mapping[str, Any], target: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays that `config.init_from` puts in place of random ones; {} without. See
    `transfer.load`.
    """
    if config.freeze == "encoder" and not config.init_from:
        logging.warning("config.freeze=encoder without config.init_from: a random encoder stays random")
    return transfer.load(transfer.Origin(config.init_from, config.init_checkpoint, config.init_weights), images, target)
