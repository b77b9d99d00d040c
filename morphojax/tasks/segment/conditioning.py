"""A decoder conditioned on what the network itself measures: columns of the table, told from the image, that steer the decoder (FiLM).

At test time nothing but the image is needed: the columns are predicted, in training as then. Cf. DeCode (arXiv:2407.09437), which
conditions on label-derived shape features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import Schema
from morphojax.objectives import columns as tabular


@dataclasses.dataclass(frozen=True)
class Measures:
    """The columns that are predicted, standardised: values float32 [N,M] and missing bool [N,M] for the N subjects of a dataset."""

    names: tuple[str, ...]
    values: np.ndarray
    missing: np.ndarray

    def loss(
        self, prediction: jax.Array, subject: jax.Array, shown: jax.Array, constants: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The squared error of every slice's prediction [n,M] against the row of its subject, int [n]; shown bool [n]: no padding."""
        values, missing = constants["measures"][subject], constants["unmeasured"][subject]
        value, found = tabular.regression(prediction, values, missing, range(len(self.names)), shown)
        return value, {f"measures/{name}": v for name, v in {"loss": value, **found}.items()}

    @property
    def constants(self) -> dict[str, np.ndarray]:
        return {"measures": self.values, "unmeasured": self.missing}


def build(dataset: Dataset, columns: str, subjects: np.ndarray) -> Measures | None:
    """The continuous columns that `columns` selects (as `Schema.select`), scaled by the rows of `subjects`; None for "".

    Raises:
        TableError, ValueError: a selection of nothing, or of no continuous column.
    """
    if not columns:
        return None
    chosen = tuple(c for c in dataset.schema.select(columns).columns if c.kind == "continuous")
    if not chosen:
        raise ValueError(f"config.model.condition={columns!r} selects no continuous column of the table")
    encoder = TableEncoder.fit(dataset.table.iloc[subjects], Schema(chosen))
    values, missing = encoder.encode(dataset.table)
    return Measures(encoder.schema.names, values, missing)


def slices_of(batch: Any) -> tuple[jax.Array, jax.Array]:
    """Whole stacks: the subject of every slice, int [B*K], and whether it is one, bool [B*K]."""
    mask = batch["slice_mask"] & batch["valid"][:, None]
    return jnp.repeat(batch["subject"], mask.shape[1]), mask.reshape(-1)
