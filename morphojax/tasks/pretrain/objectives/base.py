"""What one objective asks of the towers, and what it makes of the answer."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from morphojax.data.tables.schema import Schema


def need(name: str, key: str, value: float, low: float = 0.0, high: float = math.inf, above: bool = False) -> None:
    """Raises ValueError, naming the key of an objective, for a value that does not lie in [low, high]; with `above`, in (low, high]."""
    if not low <= value <= high or not math.isfinite(value) or (above and value == low):
        span = f"{'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < math.inf else " up")
        raise ValueError(f"config.objectives.{name}.{key}={value}: give a value {span}")


class BatchInfo(NamedTuple):
    """What a batch says of its B subjects (K slices each) besides images.

    subject int [B], valid bool [B] (False is padding), slice_mask bool [B,K], position float [B,K] (0..1 along the stack),
    values float [B,F] and missing bool [B,F]: the table rows as they are; masked bool [B,F]: the columns withheld in the
    `masked` variant of the rows; label int [B], -1 where unknown.
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
        """[B] -> [B*K]: what is true of a subject, for each of its slices."""
        return jnp.repeat(of_subjects, self.slice_mask.shape[1])


@dataclasses.dataclass(frozen=True)
class Context:
    """What the terms of a run may build on.

    schema, cardinalities: the table as the model sees it, one entry per column. classes: the label's, none without a label.
    table_tokens: the table encoder gives a token per column. patch: side of the encoder's patches, 0 where it cannot
    be shown a part of them. channels: of an image. image_planes: the plane of each of a subject's K images. dtype: of the computation.
    """

    schema: Schema
    cardinalities: tuple[int, ...]
    classes: tuple[str, ...]
    table_tokens: bool
    patch: int
    channels: int
    image_planes: tuple[str, ...]
    dtype: Any

    def need_table(self, why: str) -> None:
        if not self.cardinalities:
            raise ValueError(f"config.objectives.{why} needs table columns: config.table.groups selects none")

    @property
    def planes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.image_planes))

    def same_plane(self, subjects: int) -> jax.Array:
        """bool [B*K, B*K]: pairs of slices of one plane."""
        plane = jnp.tile(jnp.array([self.planes.index(p) for p in self.image_planes]), subjects)
        return plane[:, None] == plane

    def need_label(self, why: str) -> None:
        if not self.classes:
            raise ValueError(f"config.objectives.{why} needs labels: name a column in config.table.label")


@dataclasses.dataclass(frozen=True)
class Objective:
    """One objective of a run.

    weight:   factor of its loss in the sum.
    head:     module: (TowerOutputs, train) -> arrays by name.
    loss:     (the head's arrays, BatchInfo) -> (loss, metrics).
    views:    how many views of every slice it needs: 0 (none whole), 1 or 2.
    aligned:  the two views show every place at the same place: they differ in intensities only.
    parts:    it needs the first view with patches hidden.
    rows:     the variants of the rows it needs: `augmented` (corrupted in training only), `corrupted`, `clean`, `masked`.
    table:    it needs a table row of every subject.
    momentum: its loss is also given, under `target`, what the head gives with a moving average of all parameters; this is
              (step, steps of the run) -> the share that the average keeps of itself at a step. None: no average.
    decoder:  it needs the decoder.
    monitor_only: it only reads what the others have learned, so the best checkpoint is not chosen by it.
    whole:    on validation, its loss is that of the whole set at once; False: the mean over batches.
    """

    weight: float
    head: Any
    loss: Callable[[dict[str, Any], BatchInfo], tuple[jax.Array, dict[str, jax.Array]]]
    views: int = 1
    aligned: bool = False
    parts: bool = False
    rows: tuple[str, ...] = ()
    table: bool = False
    momentum: Callable[[jax.Array, int], jax.Array] | None = None
    decoder: bool = False
    monitor_only: bool = False
    whole: bool = True
