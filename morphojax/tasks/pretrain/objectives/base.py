"""The interface of a pretraining objective: what it gets and what it needs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from morphojax.data.tables.schema import Schema


def need(name: str, key: str, value: float, low: float = 0.0, high: float = math.inf, above: bool = False) -> None:
    """Raises ValueError, naming the key, unless the value is finite and in [low, high].

    above: `low` itself is refused too.
    """
    if not low <= value <= high or not math.isfinite(value) or (above and value == low):
        span = f"{'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < math.inf else " up")
        raise ValueError(f"config.objectives.{name}.{key}={value}: give a value {span}")


class BatchInfo(NamedTuple):
    """Information on the B subjects of a batch (K slices each) that is not in the images.

    subject:    int [B], index of the subject.
    valid:      bool [B], False for padding.
    slice_mask: bool [B,K], False for slices that pad a stack.
    position:   float [B,K], 0..1 along the stack.
    values:     float [B,F], the table rows, neither corrupted nor masked.
    missing:    bool [B,F], where `values` is not known.
    masked:     bool [B,F], the columns masked in the row variant `masked`.
    label:      int [B], -1 where unknown.
    """

    subject: jax.Array
    valid: jax.Array
    slice_mask: jax.Array
    position: jax.Array
    values: jax.Array
    missing: jax.Array
    masked: jax.Array
    label: jax.Array

    @property
    def valid_slices(self) -> jax.Array:
        """bool [B*K]."""
        return (self.slice_mask & self.valid[:, None]).reshape(-1)

    def of_slices(self, of_subjects: jax.Array) -> jax.Array:
        """[B] -> [B*K]: the value of each subject, repeated for its slices."""
        return jnp.repeat(of_subjects, self.slice_mask.shape[1])


@dataclasses.dataclass(frozen=True)
class Context:
    """The settings of a run that objectives depend on.

    schema:        the table's columns.
    cardinalities: for each column 1 (continuous) or its number of classes.
    classes:       names of the label's classes; empty without a label.
    table_tokens:  the table encoder returns a token per column.
    patch:         side of the encoder's patches in pixels; 0 if it cannot mask patches.
    channels:      channels of an image.
    image_planes:  the plane of each of a subject's K images.
    dtype:         dtype of the computation.
    """

    schema: Schema
    cardinalities: tuple[int, ...]
    classes: tuple[str, ...]
    table_tokens: bool
    patch: int
    channels: int
    image_planes: tuple[str, ...]
    dtype: Any

    def need_table(self, name: str) -> None:
        """Raises ValueError if the run has no table columns; `name` is the objective."""
        if not self.cardinalities:
            raise ValueError(f"config.objectives.{name} needs table columns: config.table.groups selects none")

    @property
    def planes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.image_planes))

    def same_plane(self, subjects: int) -> jax.Array:
        """bool [B*K, B*K]: pairs of slices from the same plane."""
        plane = jnp.tile(jnp.array([self.planes.index(p) for p in self.image_planes]), subjects)
        return plane[:, None] == plane

    def need_label(self, name: str) -> None:
        """Raises ValueError if the run has no label; `name` is the objective."""
        if not self.classes:
            raise ValueError(f"config.objectives.{name} needs labels: name a column in config.table.label")


@dataclasses.dataclass(frozen=True)
class Objective:
    """One objective of a run.

    weight:         factor of its loss in the sum.
    head:           module: (TowerOutputs, train) -> arrays by name.
    loss:           (the head's arrays, BatchInfo) -> (loss, metrics).
    views:          number of augmented views of every slice that it needs: 0, 1 or 2. Masked
                    patches do not count.
    aligned:        the two views differ in intensity only: a pixel shows the same anatomy in both.
    masked_patches: it needs the first view with some patches masked.
    row_variants:   the variants of the table rows that it needs: `augmented` (corrupted in training
                    only), `corrupted`, `clean`, `masked`.
    needs_table:    every subject must have a table row.
    momentum:       (step, number of steps) -> momentum of an EMA teacher of all parameters. The
                    loss then finds the head's arrays computed by the teacher under `target`. None:
                    no teacher.
    needs_decoder:  it needs the decoder.
    monitor_only:   it monitors the features and is left out of the validation loss that selects the
                    best checkpoint.
    whole_validation_set: its validation loss is computed on the whole set at once. False: the mean
                    over batches.
    pair:           (the head's arrays, BatchInfo) -> the two embeddings of positive pairs by name
                    [N,P] and valid bool [N], whose `geometry` is measured on validation. None: its
                    embeddings form no such pairs, or its loss measures them. Needs
                    whole_validation_set.
    """

    weight: float
    head: Any
    loss: Callable[[dict[str, Any], BatchInfo], tuple[jax.Array, dict[str, jax.Array]]]
    views: int = 1
    aligned: bool = False
    masked_patches: bool = False
    row_variants: tuple[str, ...] = ()
    needs_table: bool = False
    momentum: Callable[[jax.Array, int], jax.Array] | None = None
    needs_decoder: bool = False
    monitor_only: bool = False
    whole_validation_set: bool = True
    pair: Callable[[dict[str, Any], BatchInfo], tuple[dict[str, jax.Array], jax.Array]] | None = None
