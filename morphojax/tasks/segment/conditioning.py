"""A decoder conditioned on columns that the network itself predicts from the image (FiLM).

At test time only the image is needed: the columns are predicted, as in training. Cf. DeCode
(arXiv:2407.09437), which conditions on shape features derived from labels.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import Schema
from morphojax.objectives import columns


@dataclasses.dataclass(frozen=True)
class Measures:
    """The predicted columns, standardised: values float32 [N,M] and missing bool [N,M] for the N
    subjects of a dataset.
    """

    names: tuple[str, ...]
    values: np.ndarray
    missing: np.ndarray

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """For `loss`; {} without columns."""
        if not self.names:
            return {}
        return {"measures": self.values, "measures_missing": self.missing}


def from_config(dataset: Dataset, columns: str, subjects: np.ndarray) -> Measures:
    """The continuous columns that `config.model.condition` selects (as `Schema.select`), scaled by
    the rows of `subjects`.

    Raises:
        TableError, ValueError: a selection of nothing, or of no continuous column.
    """
    if not columns:
        return Measures((), np.zeros((0, 0), np.float32), np.zeros((0, 0), bool))
    chosen = tuple(c for c in dataset.schema.select(columns).columns if c.kind == "continuous")
    if not chosen:
        raise ValueError(f"config.model.condition={columns!r} selects no continuous column of the table")
    encoder = TableEncoder.fit(dataset.table.iloc[subjects], Schema(chosen))
    values, missing = encoder.encode(dataset.table)
    return Measures(encoder.schema.names, values, missing)


def loss(
    prediction: jax.Array, subject: jax.Array, valid: jax.Array, constants: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The squared error of each slice's prediction [n,M] against the row of its subject, and
    metrics as `measures/<metric>`.

    subject: int [n]. valid: bool [n], False for padding. constants: those of `Measures`.
    """
    values, missing = constants["measures"][subject], constants["measures_missing"][subject]
    value, metrics = columns.regression(prediction, values, missing, range(prediction.shape[1]), valid)
    return value, {f"measures/{name}": metric for name, metric in {"loss": value, **metrics}.items()}
