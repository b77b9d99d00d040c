"""Pseudo-labels: the classes of the teacher, optionally calibrated to the table's volumes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from morphojax.objectives.calibration import calibrate
from morphojax.objectives.components import largest_components


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """How pseudo-labels are made; the fields are the keys of `config.unlabelled.teacher`.

    calibrate:         add an offset per structure to the logits of a stack, so that its expected
                       volumes are those of the table (`objectives.calibration`).
    band:              relative tolerance of the table: volumes inside it are left as they are.
    limit:             largest offset, in absolute value.
    largest_component: keep only the largest component of every structure of a stack.
    collapse_steps:    a teacher that has lost or flooded a structure for this number of steps stops
                       the run (`collapse.py`); 0: never.

    Raises ValueError `<field>=<value>: give ...`.
    """

    calibrate: bool = False
    band: float = 0.0
    limit: float = 6.0
    largest_component: bool = False
    collapse_steps: int = 300

    def __post_init__(self) -> None:
        for name, holds, what in (
            ("band", 0 <= self.band < 1, "a relative tolerance, from 0 to below 1"),
            ("limit", 0 < self.limit < 50, "a positive offset of logits, below 50"),
            ("collapse_steps", self.collapse_steps >= 0, "a number of steps, or 0 for never"),
        ):
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)}: give {what}")


class PseudoLabels(NamedTuple):
    """label int32 and confidence float32 (the probability of that class), both [B,K,H,W]; metrics.
    No gradient.
    """

    label: jax.Array
    confidence: jax.Array
    metrics: dict[str, jax.Array]


def pseudo_labels(logits: jax.Array, batch: Any, structures: Sequence[str], spec: TeacherSpec) -> PseudoLabels:
    """logits: the teacher's, [B,K,H,W,classes], on the images of an `UnlabelledBatch` without
    augmentation.

    Metrics: those of `calibrate`, and `fraction/<structure>`, of the valid pixels.
    """
    logits, metrics = logits.astype(jnp.float32), {}
    if spec.calibrate:
        arrays = (logits, batch.slice_mask, batch.voxel_size, batch.volume)
        offsets, metrics = calibrate(*arrays, band=spec.band, limit=spec.limit, valid=batch.valid)
        logits = logits.at[..., 1:].add(offsets[:, None, None, None])
    label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    confidence = jnp.exp(jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1))
    label = jnp.where(batch.valid_slices[:, :, None, None], label, 0)
    if spec.largest_component:
        label = largest_components(label, logits.shape[-1])
    pixels = jnp.maximum(batch.valid_slices.sum(), 1) * label.shape[-2] * label.shape[-1]
    fractions = [(label == c).sum() / pixels for c in range(1, logits.shape[-1])]
    metrics |= {f"fraction/{name}": value for name, value in zip(structures, fractions, strict=True)}
    return PseudoLabels(label, confidence, jax.lax.stop_gradient(metrics))
