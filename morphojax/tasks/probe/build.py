"""From a config to the task of a probe."""

from typing import Any

import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input.stream import Stream, StreamSpec
from morphojax.data.input.subjects import ImageSpec, subject_stream
from morphojax.data.store.dataset import Dataset
from morphojax.tasks import assembly, common, from_config
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
    values, missing = np.nan_to_num(target)[:, None].astype(np.float32), ~np.isfinite(target)[:, None]
    images = ImageSpec(anatomy.parse_planes(config.data.plane), **config.input)
    spec = make_spec(config, images, dataset.manifest.grid.size, label)
    augment.check(images.planes, spec.augmentation, config.allow_unanatomical_flips)

    def make(chosen: np.ndarray, stream_spec: StreamSpec) -> Stream:
        return subject_stream(dataset, subjects=chosen, values=values, missing=missing, images=images, spec=stream_spec)

    streams = common.make_streams(config, subjects, make)
    _warn_of_leaks(config, label, dataset)
    described = preprocessing(dataset, images.planes, "cycle" if images.cycle else "frame", ())
    constants = {"weights": task.class_weights(target[subjects.train], spec.classes)}
    parts = assembly.TaskParts(
        stages=((0, spec),), streams=streams, constants=constants, images=described, best=("loss", False)
    )
    return assembly.assemble(config, task, parts), {"preprocessing.json": described, "label.json": label.to_json()}


def make_spec(config: ml_collections.ConfigDict, images: ImageSpec, size: int, label: Label) -> ProbeSpec:
    """The spec of a config, for images of size x size pixels. Raises ValueError, naming the key."""
    return ProbeSpec(
        encoder=from_config.image_encoder(config.model.to_dict(), images.image_planes),
        label=label,
        image_shape=(len(images.image_planes), size, size, images.channel_count),
        augmentation=augment.Augmentation(**config.augment),
        seed=config.seed,
        train_encoder=assembly.trains_encoder(config.freeze),
    )


def _with_label(subjects: Subjects, known: np.ndarray, name: str) -> Subjects:
    """Those with a known label. The number of training subjects left out is printed."""
    kept = subjects.restrict(known)
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
