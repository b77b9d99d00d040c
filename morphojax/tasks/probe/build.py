"""From a config to the task of a probe."""

import functools
from typing import Any

import jax
import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input.subjects import ImageSpec, subject_stream
from morphojax.data.store.dataset import Dataset
from morphojax.tasks import common, from_config
from morphojax.tasks.common import Subjects
from morphojax.tasks.probe import task
from morphojax.tasks.probe.label import Label
from morphojax.tasks.probe.task import ProbeSpec
from morphojax.train import checkpoint, devices, lineage, weights
from morphojax.train.run import preprocessing
from morphojax.train.task import Task


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name:
    JSON-able}).
    """
    subjects = common.select_subjects(config, dataset)
    label = Label.fit(dataset, config.label, subjects.train)
    target = label.encode(dataset.table)
    subjects = _with_label(subjects, np.isfinite(target), config.label)
    images = ImageSpec(anatomy.parse_planes(config.data.plane), **config.input)
    values, missing = np.nan_to_num(target)[:, None].astype(np.float32), ~np.isfinite(target)[:, None]
    make = functools.partial(subject_stream, dataset, values=values, missing=missing, images=images)
    streams = common.make_streams(config, subjects, lambda chosen, stream: make(subjects=chosen, spec=stream))
    steps = common.count_steps(config, streams.train.examples)
    spec = make_spec(config, images, dataset.manifest.grid.size, len(label.classes))
    augment.check(images.planes, spec.augmentation, config.allow_unanatomical_flips)
    training = common.training(config, steps, {"encoder": spec.encoder})
    _warn_of_leaks(config, label, dataset)
    described = preprocessing(dataset, images.planes, "cycle" if images.cycle else "frame", ())
    init = functools.partial(task.init_state, optimizer=training.optimizer, keep_ema=training.keeps_ema, spec=spec)
    made = Task(
        init=init,
        pretrained=common.first_weights(config, described, jax.eval_shape(lambda: task.init_variables(spec))),
        steps=steps,
        stages=((0, training.step(functools.partial(task.loss, spec=spec), spec.train_encoder)),),
        evaluate=functools.partial(task.evaluate, spec=spec),
        summarise=functools.partial(task.summarise, label=label),
        constants={"weights": task.class_weights(target[subjects.train], spec.classes)},
        train_batches=streams.train,
        validation_batches=streams.validation_batches,
        best=("loss", False),
        pictures=lambda state, constants, batch: task.augmented(batch, state.step, spec),
        draw_validation=False,
        draw=task.draw,
        learning_rate=training.learning_rate,
        examples=config.batch_size,
    )
    return made, {"preprocessing.json": described, "label.json": label.to_json()}


def make_spec(config: ml_collections.ConfigDict, images: ImageSpec, size: int, classes: int) -> ProbeSpec:
    """The spec of a config, for images of size x size pixels. Raises ValueError, naming the key."""
    return ProbeSpec(
        encoder=from_config.image_encoder(config.model.to_dict(), images.image_planes),
        classes=classes,
        image_shape=(len(images.image_planes), size, size, images.channel_count),
        augmentation=augment.Augmentation(**config.augment),
        seed=config.seed,
        train_encoder=common.trains_encoder(config.freeze),
    )


def _with_label(subjects: Subjects, known: np.ndarray, name: str) -> Subjects:
    """Those with a known label. The number of training subjects left out is printed."""
    kept = subjects.having(known)
    if left_out := len(subjects.train) - len(kept.train):
        devices.say(f"{left_out} of {len(subjects.train)} subjects have no {name}: left out")
    return kept


def _warn_of_leaks(config: ml_collections.ConfigDict, label: Label, dataset: Dataset) -> None:
    """Prints what the pretrained encoder has seen that makes its score on this label look better
    than it is.
    """
    if config.init_from and not weights.is_weights(config.init_from):
        run = checkpoint.find(config.init_from, config.init_checkpoint).parent.parent
        for line in lineage.caveats(run, label.column, dataset):
            devices.say(f"WARNING: {line}")
