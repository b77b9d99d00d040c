"""From a config to the task of a segmentation."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input.slices import slice_stream
from morphojax.data.input.stream import Stream, StreamSpec
from morphojax.data.store.dataset import Dataset
from morphojax.models.towers import Segmenter
from morphojax.tasks import assembly, common, from_config
from morphojax.tasks.segment import conditioning, sizes, task, unlabelled
from morphojax.tasks.segment.task import SegmentSpec
from morphojax.train import transfer
from morphojax.train.run import preprocessing
from morphojax.train.task import Task

FREEZE = ("none", "encoder", "probe_then_full")
REFERENCE_SLICES = 32  # on which the encoder's features are compared with those at the start of the run


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name:
    JSON-able}).
    """
    planes = anatomy.parse_planes(config.data.plane)
    structures = choose_structures(tuple(config.data.structures), dataset, planes)
    settings = config.input.to_dict()

    def make(chosen: np.ndarray, stream_spec: StreamSpec) -> Stream:
        return slice_stream(
            dataset, subjects=chosen, spec=stream_spec, planes=planes, structures=structures, **settings
        )

    subjects = common.select_subjects(config, dataset)
    streams = common.make_streams(config, subjects, make)
    measures = conditioning.from_config(dataset, config.model.condition, subjects.pool)
    spec = make_spec(config, structures, dataset.manifest.grid.size, measures.names)
    augment.check(planes, spec.augmentation, config.allow_unanatomical_flips)
    if config.unlabelled.batch_size:
        labelled = unlabelled.Labelled(planes, structures, subjects, streams)
        streams, objectives = unlabelled.add_unlabelled(config, dataset, labelled, spec.augmentation)
        spec = dataclasses.replace(spec, unlabelled=objectives)
        if objectives.reads_pseudo_labels:
            _check_structures_occur(make(subjects.train, _ONE_BY_ONE), spec)
    constants = measures.constants
    if config.dynamics_every:
        watched = subjects.validation if len(subjects.validation) else subjects.train
        constants |= {"reference_images": _reference_images(make(watched, _ONE_BY_ONE))}
    images = preprocessing(dataset, planes, "frame", structures) | {"measures": list(measures.names)}
    stages = _stages(config, streams.steps, spec)
    parts = assembly.TaskParts(
        stages=stages,
        streams=streams,
        constants=constants,
        images=images,
        best=("dice", True),
        draw_validation=True,
        monitor=spec.unlabelled.monitor() if spec.unlabelled else None,
    )
    made = assembly.assemble(config, task, parts)
    learned = sizes.of_training(dataset, subjects.train, planes, structures, tuple(config.input.frames))
    start = transfer.digest(made.pretrained)
    return made, {"preprocessing.json": images, "sizes.json": learned, "start.json": start}


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


def _check_structures_occur(slices: Stream, spec: SegmentSpec) -> None:
    """Raises ValueError for a structure that no slice of the stream shows: a teacher that never saw
    it would label it as background.
    """
    missing = set(spec.structures)
    for i in range(slices.examples):
        missing -= {anatomy.STRUCTURES[label - 1] for label in np.unique(slices.at(i)["label"]) if label}
        if not missing:
            return
    raise ValueError(
        f"config.unlabelled: no labelled slice shows {', '.join(sorted(missing))}, so its pseudo-labels would be empty; "
        "label a subject that shows it, or leave it out of config.data.structures"
    )


def _reference_images(slices: Stream) -> np.ndarray:
    """uint8 [n,H,W,1], n up to REFERENCE_SLICES: evenly spaced among all labelled slices of a
    stream; the same in every process.
    """
    chosen = np.linspace(0, slices.examples - 1, min(REFERENCE_SLICES, slices.examples)).round().astype(int)
    return np.concatenate([slices.at(int(i))["image"] for i in chosen])


def choose_structures(chosen: tuple[str, ...], dataset: Dataset, planes: tuple[str, ...]) -> tuple[str, ...]:
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


def _stages(config: ml_collections.ConfigDict, steps: int, spec: SegmentSpec) -> tuple[tuple[int, SegmentSpec], ...]:
    """The stages of the run by their first steps. A stage begins where the encoder starts to learn
    (config.freeze=probe_then_full), and where an unlabelled objective starts: until then its passes
    would cost time and move the running statistics.
    """
    frozen_steps = 0
    if not assembly.trains_encoder(config.freeze, FREEZE):
        frozen_steps = steps if config.freeze == "encoder" else config.probe_steps
        if config.freeze == "probe_then_full" and not 0 < config.probe_steps < steps:
            raise ValueError(
                f"config.probe_steps={config.probe_steps}: give a number of steps between 0 and the run's {steps}"
            )
    # Unlabelled images train the measures from the first step.
    unlabelled = spec.unlabelled if not spec.measures else None
    starts = {0, frozen_steps, *(unlabelled.first_steps if unlabelled else ())}

    def at(step: int) -> SegmentSpec:
        acting = unlabelled.at(step) if unlabelled else spec.unlabelled
        return dataclasses.replace(spec, train_encoder=step >= frozen_steps, unlabelled=acting)

    return tuple((step, at(step)) for step in sorted(starts) if step < steps)
