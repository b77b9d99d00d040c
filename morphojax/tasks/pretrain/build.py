"""From a config to the task of a pretraining."""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input.stream import Stream, StreamSpec
from morphojax.data.input.subjects import ImageSpec, subject_stream
from morphojax.data.store.dataset import Dataset
from morphojax.models.pretrainer import Pretrainer
from morphojax.tasks import assembly, common, from_config
from morphojax.tasks.pretrain import objectives, rows, task
from morphojax.tasks.pretrain.inputs import Inputs
from morphojax.tasks.pretrain.objectives import Context, Objective
from morphojax.tasks.pretrain.task import PretrainSpec
from morphojax.train import ema
from morphojax.train.run import preprocessing
from morphojax.train.task import Task


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name:
    JSON-able}).
    """
    if config.batch_size < 2:
        raise ValueError(f"config.batch_size={config.batch_size}: contrastive losses need at least 2 subjects")
    subjects = common.select_subjects(config, dataset)
    table = rows.read(dataset, subjects.train, seed=config.seed, **config.table)
    images = ImageSpec(anatomy.parse_planes(config.data.plane), **config.input)
    spec = make_spec(config, table, images, dataset.manifest.grid.size)
    augment.check(images.planes, spec.inputs.augmentation, config.allow_unanatomical_flips)
    if any(objective.needs_table for objective in spec.objectives.values()):
        subjects = table.with_rows(subjects)

    def make(chosen: np.ndarray, stream_spec: StreamSpec) -> Stream:
        return subject_stream(
            dataset, subjects=chosen, values=table.values, missing=table.missing, images=images, spec=stream_spec
        )

    streams = common.make_streams(config, subjects, make)
    described = preprocessing(dataset, images.planes, "cycle" if images.cycle else "frame", ())
    parts = assembly.TaskParts(
        stages=((0, spec),),
        streams=streams,
        constants=table.constants(subjects.train),
        images=described,
        best=("loss", False),
        ema_decay=_target_decay(config, streams.steps, spec),
    )
    return assembly.assemble(config, task, parts), {"preprocessing.json": described, "table.json": table.to_json()}


def make_spec(config: ml_collections.ConfigDict, table: rows.Table, images: ImageSpec, size: int) -> PretrainSpec:
    """The spec of a config, for images of size x size pixels. Raises ValueError, naming the key,
    for what a config has wrong.
    """
    model = config.model.to_dict()
    encoder = from_config.image_encoder(model, images.image_planes)
    context = Context(
        schema=table.schema,
        cardinalities=table.cardinalities,
        classes=table.classes,
        table_tokens=model["table"]["encoder"] == "transformer",
        patch=from_config.patch(encoder),
        channels=images.channel_count,
        image_planes=images.image_planes,
        dtype=from_config.dtype(model["dtype"]),
    )
    chosen = objectives.from_config(config.objectives.to_dict(), context)
    inputs = _inputs(config, chosen)
    inputs.check(len(table.cardinalities))
    return PretrainSpec(
        model=_model(config, encoder, table.cardinalities, images.image_planes, chosen),
        objectives=chosen,
        inputs=inputs,
        image_shape=(len(images.image_planes), size, size, images.channel_count),
        columns=table.schema.names,
        seed=config.seed,
    )


def _inputs(config: ml_collections.ConfigDict, chosen: Mapping[str, Objective]) -> Inputs:
    return Inputs(
        seed=config.seed,
        views=max(1, *(objective.views for objective in chosen.values())),
        aligned=any(objective.aligned for objective in chosen.values()),
        rows=tuple(sorted({variant for objective in chosen.values() for variant in objective.row_variants})),
        augmentation=augment.Augmentation(**config.augment),
        corruption_fraction=config.table.corruption_fraction,
        mask_fraction=config.table.mask_fraction,
    )


def _model(
    config: ml_collections.ConfigDict,
    encoder: Any,
    cardinalities: tuple[int, ...],
    image_planes: tuple[str, ...],
    chosen: Mapping[str, Objective],
) -> Pretrainer:
    model = config.model.to_dict()
    _check_model(model)
    needs_rows = any(objective.row_variants for objective in chosen.values())
    needs_decoder = any(objective.needs_decoder for objective in chosen.values())
    table_encoder = from_config.table_encoder(model, cardinalities)  # checked even where no objective needs it
    decoder = from_config.decoder(model)
    return Pretrainer(
        encoder=encoder,
        heads={name: objective.head for name, objective in chosen.items()},
        table_encoder=table_encoder if needs_rows else None,
        decoder=decoder if needs_decoder else None,
        image_planes=image_planes,
        pooling=model["pooling"],
        image_input=_image_input(chosen),
        patch_mask_fraction=model["patch_mask_fraction"],
        train_encoder=assembly.trains_encoder(config.freeze),
    )


def _check_model(model: Mapping[str, Any]) -> None:
    """Raises ValueError for settings that a module would refuse only later, after the run directory
    has been made.
    """
    if model["pooling"] not in ("mean", "attention"):
        raise ValueError(f"config.model.pooling={model['pooling']!r} is unknown: choose mean or attention")
    if not 0 < model["patch_mask_fraction"] < 1:
        raise ValueError(
            f"config.model.patch_mask_fraction={model['patch_mask_fraction']}: give a fraction between 0 and 1"
        )


def _image_input(chosen: Mapping[str, Objective]) -> Any:
    """Whether the encoder sees full images, masked ones or both, so that no forward pass
    is wasted.
    """
    masked = any(objective.masked_patches for objective in chosen.values())
    full = any(objective.views for objective in chosen.values())
    return "both" if masked and full else "masked" if masked else "full"


def _target_decay(config: ml_collections.ConfigDict, steps: int, spec: PretrainSpec) -> ema.Decay | None:
    """The decay of the EMA weights that an objective uses as target network; None without one."""
    schedules = [objective.momentum for objective in spec.objectives.values() if objective.momentum]
    if not schedules:
        return None
    if config.ema.decay:
        raise ValueError("config.ema.decay: an objective here keeps EMA weights on its own schedule; set it to 0")
    return ema.rest_while_accumulating(lambda step: schedules[0](step, steps), config.optimizer.accumulate)
