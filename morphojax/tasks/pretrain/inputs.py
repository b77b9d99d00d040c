"""A batch of pretraining -> the inputs of the towers: views of the images, variants of the table
rows, and the batch information.
"""

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
    """What the objectives of a run need of a batch, and how it is drawn.

    views, aligned, rows: as in `Objective` (`row_variants`), for all objectives together.
    corruption_fraction, mask_fraction: of a row's columns, in the variants `corrupted` (or
    `augmented`) and `masked`.
    """

    seed: int
    views: int
    aligned: bool
    rows: tuple[str, ...]
    augmentation: augment.Augmentation
    corruption_fraction: float
    mask_fraction: float

    def check(self, columns: int) -> None:
        """Raises ValueError, naming the key, for fractions that leave an objective nothing
        to do.
        """
        if "masked" in self.rows and not 0 < self.mask_fraction < 1:
            raise ValueError(
                f"config.table.mask_fraction={self.mask_fraction}: give a fraction between 0 and 1, "
                "so that some columns are masked and some are not"
            )
        if "corrupted" in self.rows and not int(self.corruption_fraction * columns):
            raise ValueError(
                f"config.table.corruption_fraction={self.corruption_fraction} changes none of {columns} columns, and an "
                "objective compares rows with their corrupted copies: raise it"
            )

    def images(self, batch: Batch, step: jax.Array | None) -> jax.Array:
        """The views, float32 [B,V,K,H,W,C] in 0..1. Without a step, as on validation, the first
        view is the image itself.
        """
        image = batch["image"].astype(jnp.float32) / 255
        first = image if step is None else self._augmented(image, "augment", step, self.augmentation)
        if self.views < 2:
            return first[:, None]
        second, augmentation = image, self.augmentation
        if self.aligned:  # moved as the first view is, with intensities drawn anew
            augmentation = self.augmentation.photometric
            if step is not None:
                second = self._augmented(image, "augment", step, self.augmentation.geometric)
        return jnp.stack([first, self._augmented(second, "augment_second", step, augmentation)], axis=1)

    def table(self, batch: Batch, constants: Any, step: jax.Array | None) -> tuple[dict[str, Rows], jax.Array]:
        """The variants of the rows, and bool [B,F], the columns masked in the variant `masked`."""
        # The names of random keys ("corrupt", "hide") are part of the draws: they never change.
        values, missing = batch["values"], batch["missing"]
        no_mask, rows = jnp.zeros(values.shape, jnp.float32), {}
        masked = jnp.zeros(values.shape, bool)
        for name in self.rows:
            row = (values, missing, no_mask)
            if name == "corrupted" or (name == "augmented" and step is not None):
                key = self._key("corrupt" if name == "augmented" else "corrupt_second", step)
                marginal = (constants["values"], constants["missing"])
                row = (*augment.corrupt(key, values, missing, *marginal, self.corruption_fraction), no_mask)
            elif name == "masked":
                masked = augment.mask_columns(self._key("hide", step), values.shape, self.mask_fraction)
                row = (values, missing, masked.astype(jnp.float32))
            rows[name] = row
        return rows, masked

    def info(self, batch: Batch, constants: Any, masked: jax.Array) -> BatchInfo:
        names = ("subject", "valid", "slice_mask", "position", "values", "missing")
        return BatchInfo(**{n: batch[n] for n in names}, masked=masked, label=constants["label"][batch["subject"]])

    def negatives(self, batch: Batch) -> jax.Array:
        """bool [B,B]: pairs of different subjects, neither of them padding."""
        valid = batch["valid"]
        different = targets.distinct(batch["subject"]) & ~jnp.eye(len(valid), dtype=bool)
        return different & valid[:, None] & valid

    def _augmented(
        self, image: jax.Array, name: str, step: jax.Array | None, augmentation: augment.Augmentation
    ) -> jax.Array:
        return augment.augment(self._key(name, step), image, None, augmentation)[0]

    def _key(self, name: str, step: jax.Array | None) -> jax.Array:
        return rng.key(self.seed, name, step) if step is not None else rng.key(self.seed, f"validate_{name}")
