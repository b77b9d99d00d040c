"""A finished pretraining, built again from its run directory: its model, table and subjects."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from morphojax import anatomy
from morphojax.data.input.subjects import ImageSpec
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import TableEncoder
from morphojax.tasks import common
from morphojax.tasks.pretrain import rows
from morphojax.tasks.pretrain.build import make_spec
from morphojax.tasks.pretrain.task import PretrainSpec


@dataclasses.dataclass(frozen=True)
class Finished:
    """table: each subject's own row, whatever `config.table.control` was in training.

    train: indices of the training subjects that have a table row.
    """

    spec: PretrainSpec
    table: rows.Table
    images: ImageSpec
    train: np.ndarray


def rebuild(config: Mapping[str, Any], dataset: Dataset, encoder: TableEncoder | None) -> Finished:
    """The pretraining of a run's `config.json`.

    The computation is float32, whatever `config.model.dtype` was.

    encoder: of the run's `table.json`, which encodes the rows; None for a run without a table.
    Raises one of `experiment.EXPECTED` for a config or dataset that does not fit.
    """
    made = ml_collections.ConfigDict(dict(config))
    made.model.dtype = "float32"
    chosen = common.select_subjects(made, dataset).train
    table = rows.read(dataset, chosen, seed=made.seed, **dict(made.table) | {"control": "none"})
    if encoder is not None:
        values, missing = encoder.encode(dataset.table)
        table = dataclasses.replace(table, encoder=encoder, values=values, missing=missing)
    images = ImageSpec(anatomy.parse_planes(made.data.plane), **dict(made.input) | {"frames": tuple(made.input.frames)})
    spec = make_spec(made, table, images, dataset.manifest.grid.size)
    return Finished(spec, table, images, chosen[~table.missing[chosen].all(axis=1)])
