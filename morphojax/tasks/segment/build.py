"""From a config to the task of a segmentation."""

import dataclasses
import functools
from typing import Any

import jax
import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input.slices import slice_stream
from morphojax.data.input.stream import Joined, Stream, StreamSpec
from morphojax.data.store.dataset import Dataset
from morphojax.models.towers import Segmenter
from morphojax.tasks import cohort, common, from_config
from morphojax.tasks.segment import conditioning, task, unlabelled
from morphojax.tasks.segment.task import SegmentSpec
from morphojax.tasks.segment.unlabelled import base, stream
from morphojax.train import transfer
from morphojax.train.run import preprocessing
from morphojax.train.task import StepFunction, Task

FREEZE = ("none", "encoder", "probe_then_full")
REFERENCE_SLICES = 32  # on which the encoder's features are compared with those at the start of the run


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name:
    JSON-able}).
    """
    planes = anatomy.parse_planes(config.data.plane)
    structures = _structures(tuple(config.data.structures), dataset, planes)
    subjects = common.select_subjects(config, dataset)
    make = functools.partial(slice_stream, dataset, planes=planes, structures=structures, **config.input)
    streams = common.make_streams(config, subjects, lambda chosen, spec: make(subjects=chosen, spec=spec))
    steps = common.count_steps(config, streams.train.examples)
    measures = _measures(config, dataset)
    spec = make_spec(config, structures, dataset.manifest.grid.size, measures.names if measures else ())
    train_batches: Stream | Joined = streams.train
    if config.unlabelled.batch_size:
        objectives, labelled = _unlabelled(config, spec.augmentation, steps), stream.Labelled(structures, subjects.all)
        spec = dataclasses.replace(spec, unlabelled=objectives)
        images = stream.from_config(config, dataset, labelled, objectives)
        train_batches = Joined({"labelled": streams.train, "unlabelled": images})
    augment.check(planes, spec.augmentation, config.allow_unanatomical_flips)
    training = common.training(config, steps, {"encoder": spec.model.encoder, "decoder": spec.model.decoder})
    described = preprocessing(dataset, planes, "frame", structures)
    described["measures"] = list(spec.measures)
    init = functools.partial(task.init_state, optimizer=training.optimizer, keep_ema=training.keeps_ema, spec=spec)
    pretrained = common.first_weights(config, described, jax.eval_shape(lambda: task.init_variables(spec)))
    constants: dict[str, Any] = measures.constants if measures else {}
    if config.dynamics_every:
        watched = subjects.validation if len(subjects.validation) else subjects.train
        constants |= {"reference_images": _reference_images(make(subjects=watched, spec=_ONE_BY_ONE))}
    made = Task(
        init=init,
        pretrained=pretrained,
        steps=steps,
        stages=_stages(config, steps, training, spec),
        evaluate=functools.partial(task.evaluate, spec=spec),
        summarise=functools.partial(task.validation_dice, structures=structures),
        constants=constants,
        train_batches=train_batches,
        validation_batches=streams.validation_batches,
        best=("dice", True),
        pictures=functools.partial(task.predicted_classes, spec=spec),
        draw_validation=True,
        draw=functools.partial(task.draw, spec=spec),
        learning_rate=training.learning_rate,
        examples=config.batch_size,
        diagnose=functools.partial(task.drift, spec=spec, levels=training.levels) if config.dynamics_every else None,
        diagnose_every=config.dynamics_every,
        reference=functools.partial(task.reference, spec=spec) if config.dynamics_every else None,
    )
    return made, {"preprocessing.json": described, "start.json": transfer.digest(pretrained)}


def make_spec(
    config: ml_collections.ConfigDict, structures: tuple[str, ...], size: int, measures: tuple[str, ...] = ()
) -> SegmentSpec:
    """The spec of a config, without unlabelled images."""
    return SegmentSpec(
        model=build_model(config.to_dict(), len(structures) + 1, len(measures)),
        structures=structures,
        size=size,
        augmentation=augment.Augmentation(**config.augment),
        seed=config.seed,
        dice_weight=config.objective.dice_weight,
        measures=measures,
        measures_weight=config.objective.measures_weight,
    )


def build_model(config: dict[str, Any], n_classes: int, measures: int) -> Segmenter:
    """The segmenter of a resolved config (as read from `config.json`). Raises ValueError for an
    unknown encoder, decoder, norm or dtype.

    measures: number of columns that the decoder is conditioned on.
    """
    model = config["model"]
    return Segmenter(from_config.encoder(model), from_config.decoder(model), n_classes=n_classes, measures=measures)


_ONE_BY_ONE = StreamSpec(batch_size=1, seed=0, train=False)


def _reference_images(slices: Stream) -> np.ndarray:
    """uint8 [n,H,W,1], n up to REFERENCE_SLICES: evenly spaced among all labelled slices of a
    stream; the same in every process.
    """
    chosen = np.linspace(0, slices.examples - 1, min(REFERENCE_SLICES, slices.examples)).round().astype(int)
    return np.concatenate([slices.at(int(i))["image"] for i in chosen])


def _structures(chosen: tuple[str, ...], dataset: Dataset, planes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the config, else all that are annotated in some subject in these planes. Raises
    ValueError where none is annotated.
    """
    if unknown := [s for s in chosen if s not in anatomy.STRUCTURES]:
        raise ValueError(
            f"config.data.structures: {', '.join(unknown)} unknown; choose among {', '.join(anatomy.STRUCTURES)}"
        )
    annotated = set().union(*(dataset.manifest.labelled[plane] for plane in planes))
    if not annotated.intersection(chosen or annotated):
        raise ValueError(
            f"config.data.structures: the dataset labels none of them in {', '.join(planes)} "
            f"(it labels {', '.join(sorted(annotated)) or 'nothing'})"
        )
    return chosen or tuple(s for s in anatomy.STRUCTURES if s in annotated)


def _measures(config: ml_collections.ConfigDict, dataset: Dataset) -> conditioning.Measures | None:
    if not config.model.condition:
        return None
    rows = cohort.select_subjects(dataset, split_names=config.data.splits, subjects=(), fraction=1.0, seed=config.seed)
    return conditioning.from_config(dataset, config.model.condition, rows)


def _unlabelled(config: ml_collections.ConfigDict, strong: augment.Augmentation, steps: int) -> base.UnlabelledSpec:
    objectives = unlabelled.from_config(config.unlabelled.objectives.to_dict())
    if needs_ema := [name for name, objective in objectives.items() if objective.ema and not config.ema.decay]:
        raise ValueError(
            f"{unlabelled.KEY}.{needs_ema[0]} needs EMA weights as teacher: set config.ema.decay, 0.99 for example"
        )
    weak: Any = dataclasses.replace(strong.geometric, scale=(1.0, 1.0), crop=None)
    return base.UnlabelledSpec(objectives, weak, strong, config.seed, steps)


def _stages(
    config: ml_collections.ConfigDict, steps: int, training: common.Training, spec: SegmentSpec
) -> tuple[tuple[int, StepFunction], ...]:
    """One stage, or, with config.freeze=probe_then_full, one with the encoder frozen and one
    without.
    """

    def stage(train_encoder: bool) -> StepFunction:
        staged = dataclasses.replace(spec, train_encoder=train_encoder)
        return training.step(functools.partial(task.loss, spec=staged), train_encoder)

    train_encoder = common.trains_encoder(config.freeze, FREEZE)
    if config.freeze != "probe_then_full":
        return ((0, stage(train_encoder)),)
    if not 0 < config.probe_steps < steps:
        raise ValueError(
            f"config.probe_steps={config.probe_steps}: give a number of steps between 0 and the run's {steps}"
        )
    return ((0, stage(False)), (config.probe_steps, stage(True)))
