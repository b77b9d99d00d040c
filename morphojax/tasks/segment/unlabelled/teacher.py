"""Pseudo-labels: the classes of the teacher, optionally calibrated to the table's volumes."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from morphojax.objectives.calibration import calibrate
from morphojax.objectives.components import largest_components
from morphojax.objectives.embeddings import masked_mean
from morphojax.tasks.segment.unlabelled.schedule import check


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """How pseudo-labels are made; the fields are the keys of `config.unlabelled.teacher`.

    calibrate:         add an offset per structure to the logits of a stack, so that its expected
                       volumes are those of the table (`objectives.calibration`).
    band:              relative tolerance of the table: volumes inside it are left as they are.
    limit:             largest offset, in absolute value.
    largest_component: keep only the largest component of every structure of a stack.
    collapse_steps:    the run stops if a structure vanishes from the pseudo-labels, or floods them,
                       in the mean of so many steps (`collapse.py`); 0: never.

    Raises ValueError `<field>=<value>: give ...`.
    """

    calibrate: bool = False
    band: float = 0.0
    limit: float = 6.0
    largest_component: bool = False
    collapse_steps: int = 300

    def __post_init__(self) -> None:
        check("band", self.band, 0 <= self.band < 1, "a relative tolerance, from 0 to below 1")
        check("limit", self.limit, 0 < self.limit < 50, "a positive offset of logits, below 50")
        check("collapse_steps", self.collapse_steps, self.collapse_steps >= 0, "a number of steps, or 0 for never")


class PseudoLabels(NamedTuple):
    """label int32 and confidence float32 (the probability of that class; 0 where a component was
    removed), both [B,K,H,W]; metrics. No gradient.
    """

    label: jax.Array
    confidence: jax.Array
    metrics: dict[str, jax.Array]


def make_pseudo_labels(
    logits: jax.Array,
    valid_slices: jax.Array,
    volumes: tuple[jax.Array, jax.Array] | None,
    structures: Sequence[str],
    spec: TeacherSpec,
) -> PseudoLabels:
    """logits: the teacher's, float32 [B,K,H,W,classes], on images without augmentation.
    valid_slices: bool [B,K]. volumes: the table's [B,S] and the size of a voxel [B]; None: the
    logits are not calibrated.

    Metrics: `fraction/<structure>`, of the valid pixels; with volumes those of `calibrate`, and
    `label_volume_error`, the mean relative error of the labels' own volumes. It is not 0: the
    expected volumes are those of the table, and a label is the most probable class.
    """
    metrics: dict[str, jax.Array] = {}
    if volumes is not None:
        table, voxel_size = volumes
        offsets, metrics = calibrate(logits, valid_slices, voxel_size, table, band=spec.band, limit=spec.limit)
        logits = logits.at[..., 1:].add(offsets[:, None, None, None])
    label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    confidence = jnp.exp(jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1))
    label = jnp.where(valid_slices[:, :, None, None], label, 0)
    if spec.largest_component:
        kept = largest_components(label, logits.shape[-1])
        confidence, label = jnp.where(kept == label, confidence, 0.0), kept  # nothing supports a removed pixel
    counts = jnp.sum(label[..., None] == jnp.arange(1, logits.shape[-1]), axis=(1, 2, 3))
    pixels = jnp.maximum(valid_slices.sum(), 1) * label.shape[-2] * label.shape[-1]
    metrics |= {f"fraction/{s}": n / pixels for s, n in zip(structures, counts.sum(0), strict=True)}
    if volumes is not None:
        table, voxel_size = volumes
        error = jnp.abs(counts * voxel_size[:, None] - table) / table
        metrics["label_volume_error"] = masked_mean(error, jnp.isfinite(error))
    return PseudoLabels(label, confidence, jax.lax.stop_gradient(metrics))
