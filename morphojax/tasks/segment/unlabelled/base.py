"""What an unlabelled objective declares, and what it is given: a batch of unlabelled images with
the networks' predictions.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from morphojax import augment
from morphojax.tasks.segment.networks import Networks
from morphojax.train import rng
from morphojax.train.task import Batch


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The weight of an objective over the run: 0 until the fraction `start` of the run, then up to
    `weight`, linearly over the fraction `ramp`.

    At the start of a run the predictions are too poor to learn from. Raises ValueError for a number
    out of range.
    """

    weight: float = 1.0
    start: float = 0.25
    ramp: float = 0.25
    SETTINGS: ClassVar[tuple[str, ...]] = ("weight", "start", "ramp")

    def __post_init__(self) -> None:
        check("weight", self.weight, 0 <= self.weight < math.inf, "a weight, 0 or more")
        for name in ("start", "ramp"):
            check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a fraction of the run, from 0 to 1")

    def fraction(self, step: jax.Array, steps: int) -> jax.Array:
        """The fraction of the weight in effect at a step, 0 to 1. steps: of the run."""
        return jnp.clip((step / steps - self.start) / max(self.ramp, 1e-9), 0.0, 1.0)


def check(name: str, value: float, holds: bool, what: str) -> None:
    """Raises ValueError `<name>=<value>: give <what>` where it does not hold; the caller prepends
    the key.
    """
    if not holds:
        raise ValueError(f"{name}={value}: give {what}")


@dataclasses.dataclass(frozen=True)
class UnlabelledObjective:
    """One objective on unlabelled images.

    loss:         UnlabelledBatch -> (loss, metrics), without the weight.
    whole_stacks: it needs all slices of a stack at once (a volume). Otherwise it takes single
                  slices of any plane.
    volumes:      it needs the volumes of the table; only subjects that have some take part.
    ema:          its teacher must be EMA weights (config.ema.decay above 0).
    schedule:     its weight over the run, set from the config.
    """

    loss: Callable[["UnlabelledBatch"], tuple[jax.Array, dict[str, jax.Array]]]
    whole_stacks: bool = False
    volumes: bool = False
    ema: bool = False
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


@dataclasses.dataclass(frozen=True)
class UnlabelledSpec:
    """The unlabelled objectives of a run.

    weak:   augmentation of the student's weak view: rotated and shifted, but not scaled (that would
            change volumes), intensities unchanged.
    strong: augmentation of the student's strong view: that of the labelled slices.
    steps:  number of steps of the run.
    """

    objectives: Mapping[str, UnlabelledObjective]
    weak: augment.Augmentation
    strong: augment.Augmentation
    seed: int
    steps: int


class View(NamedTuple):
    """images float32 [B,K,H,W,1] as the student saw them; its logits [B,K,H,W,classes]; its
    predicted columns [B*K,M].
    """

    images: jax.Array
    logits: jax.Array
    measures: jax.Array


class UnlabelledBatch:
    """Unlabelled images at one step. Views and predictions are computed when a loss first reads
    them, and once.

    image: uint8 [B,K,H,W,1]; K = 1 where single slices are drawn. slice_mask: bool [B,K]. subject:
    int32 [B]. valid: bool [B].
    volume: float32 [B,S] in ml, NaN where unknown, and voxel_ml: float32 [B]; both None where no
    objective needs whole stacks.
    labelled: the batch of labelled slices of the same step, augmented: {"image": float32 [N,H,W,1],
        "label": class int32 [N,H,W], "annotated": bool [N,S]}.
    networks: for passes over an objective's own images.
    """

    def __init__(self, batch: Batch, labelled: Batch, networks: Networks, spec: UnlabelledSpec, step: jax.Array):
        single = batch["image"].ndim == 4  # slices, which become stacks of one slice
        self.image = batch["image"][:, None] if single else batch["image"]
        self.slice_mask = jnp.ones(self.image.shape[:2], bool) if single else batch["slice_mask"]
        self.valid, self.subject = batch["valid"], batch["subject"]
        self.volume: Any = batch.get("volume")
        self.voxel_ml: Any = batch.get("voxel_ml")
        self.labelled, self.networks = labelled, networks
        self._spec, self._step = spec, step

    @property
    def valid_slices(self) -> jax.Array:
        """bool [B,K]: neither padding of a stack nor of the batch."""
        return self.slice_mask & self.valid[:, None]

    @property
    def plain(self) -> jax.Array:
        """float32 [B,K,H,W,1]: the images without augmentation."""
        return self.image.astype(jnp.float32) / 255

    @functools.cached_property
    def weak(self) -> View:
        """The student, in evaluation mode, on the weak view."""
        return self._view(self._spec.weak, "augment_unlabelled")

    @functools.cached_property
    def strong(self) -> View:
        """The student, in evaluation mode, on the strong view."""
        return self._view(self._spec.strong, "augment_unlabelled_strong")

    @functools.cached_property
    def teacher_probabilities(self) -> jax.Array:
        """float32 [B,K,H,W,classes]: the teacher on the images without augmentation; no
        gradient.
        """
        logits = self.networks.teacher(self._slices(self.plain))
        return jax.nn.softmax(logits.astype(jnp.float32)).reshape(*self.image.shape[:-1], -1)

    def to_weak(self, labels: jax.Array) -> jax.Array:
        """Class maps int [B,K,H,W] of the plain images, moved as the weak view is; 0 outside the
        image.
        """
        return self._move(labels, self._spec.weak, "augment_unlabelled")

    def to_strong(self, labels: jax.Array) -> jax.Array:
        """The same for the strong view."""
        return self._move(labels, self._spec.strong, "augment_unlabelled_strong")

    def _view(self, augmentation: augment.Augmentation, name: str) -> View:
        images = augment.augment(self._key(name), self.plain, None, augmentation)[0]
        logits, measures = self.networks.student(self._slices(images), train=False)
        return View(images, logits.reshape(*self.image.shape[:-1], -1), measures)

    def _move(self, labels: jax.Array, augmentation: augment.Augmentation, name: str) -> jax.Array:
        canvas = jnp.zeros((*labels.shape, 1), jnp.float32)
        return augment.augment(self._key(name), canvas, labels, augmentation.geometric)[1]

    def _slices(self, images: jax.Array) -> jax.Array:
        return images.reshape(-1, *images.shape[2:])

    def _key(self, name: str) -> jax.Array:
        return rng.key(self._spec.seed, name, self._step)


def loss(batch: UnlabelledBatch, spec: UnlabelledSpec, step: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """The weighted sum of all objectives, and their metrics as
    `unlabelled/<objective>/<metric>`.
    """
    total, metrics = jnp.float32(0.0), {}
    for name, objective in spec.objectives.items():
        value, own = objective.loss(batch)
        fraction = objective.schedule.fraction(step, spec.steps)
        total += objective.schedule.weight * fraction * value
        logged = {"loss": value, "ramp": fraction, **own}
        metrics |= {f"unlabelled/{name}/{key}": v for key, v in logged.items()}
    return total, metrics
