"""A batch of pretraining -> what the towers are given: views of the images, variants of the rows, and the info beside them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from morphojax import augment
from morphojax.models.pretrainer import Rows
from morphojax.objectives import targets
from morphojax.tasks.pretrain.objectives import BatchInfo
from morphojax.train import rng
from morphojax.train.task import Batch


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the terms of a run need of a batch, and how it is drawn.

    views, aligned, rows: `views`, `aligned` and `row_variants` of all objectives together. corruption, hidden: shares of fields.
    """

    seed: int
    views: int
    aligned: bool
    rows: tuple[str, ...]
    augmentation: augment.Augmentation
    corruption_fraction: float
    mask_fraction: float

    def check(self, columns: int) -> None:
        """Raises ValueError, naming the key, for shares that leave an objective nothing to do."""
        if "masked" in self.rows and not 0 < self.mask_fraction < 1:
            raise ValueError(
                f"config.table.mask_fraction={self.mask_fraction}: give a fraction between 0 and 1, "
                "so that some columns are masked and some are not"
            )
        if "corrupted" in self.rows and not int(self.corruption_fraction * columns):
            raise ValueError(
                f"config.table.corruption_fraction={self.corruption_fraction} changes none of {columns} columns, and an objective compares "
                "rows with their corrupted copies: raise it"
            )

    def images(self, batch: Batch, step: jax.Array | None) -> jax.Array:
        """float32 [B,V,K,H,W,C], in 0..1. Without a step, as on validation: the first view is the image itself."""
        image = batch["image"].astype(jnp.float32) / 255
        first = (
            image if step is None else augment.augment(self._key("augment", step), image, None, self.augmentation)[0]
        )
        if self.views < 2:
            return first[:, None]
        second = image
        if self.aligned:  # the place of the first view, the intensities of a draw of its own
            geometric, params = self.augmentation.geometric, self.augmentation.photometric
            if step is not None:
                second = augment.augment(self._key("augment", step), image, None, geometric)[0]
        else:
            params = self.augmentation
        second = augment.augment(self._key("augment_second", step), second, None, params)[0]
        return jnp.stack([first, second], axis=1)

    def table(self, batch: Batch, constants: Any, step: jax.Array | None) -> tuple[dict[str, Rows], jax.Array]:
        """The variants of the rows that are asked for, and bool [B,F], the columns withheld in `hidden`."""
        values, missing = batch["values"], batch["missing"]
        shown, rows = jnp.zeros(values.shape, jnp.float32), {}
        withheld = jnp.zeros(values.shape, bool)
        for name in self.rows:
            row = (values, missing, shown)
            if name == "corrupted" or (name == "augmented" and step is not None):
                key = self._key("corrupt" if name == "augmented" else "corrupt_second", step)
                marginal = (constants["values"], constants["missing"])
                row = (*augment.corrupt(key, values, missing, *marginal, self.corruption_fraction), shown)
            elif name == "masked":
                withheld = augment.mask_columns(self._key("hide", step), values.shape, self.mask_fraction)
                row = (values, missing, withheld.astype(jnp.float32))
            rows[name] = row
        return rows, withheld

    def info(self, batch: Batch, constants: Any, withheld: jax.Array) -> BatchInfo:
        names = ("subject", "valid", "slice_mask", "position", "values", "missing")
        return BatchInfo(**{n: batch[n] for n in names}, masked=withheld, label=constants["label"][batch["subject"]])

    def negatives(self, batch: Batch) -> jax.Array:
        """bool [B,B]: pairs of different subjects, neither of them padding."""
        valid = batch["valid"]
        different = targets.distinct(batch["subject"]) & ~jnp.eye(len(valid), dtype=bool)
        return different & valid[:, None] & valid

    def _key(self, name: str, step: jax.Array | None) -> jax.Array:
        return rng.key(self.seed, name, step) if step is not None else rng.key(self.seed, f"validate_{name}")
