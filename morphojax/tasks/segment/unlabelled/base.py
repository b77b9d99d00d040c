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
from morphojax.tasks.segment.unlabelled.collapse import CollapseMonitor
from morphojax.tasks.segment.unlabelled.teacher import PseudoLabels, TeacherSpec, pseudo_labels
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

    def first_step(self, steps: int) -> int:
        """The first step with a fraction above 0; 0 where the objective starts with the run."""
        return math.floor(self.start * steps) + 1 if self.start else 0

    def fraction(self, step: jax.Array, steps: int) -> jax.Array:
        """The fraction of the weight in effect at a step, 0 to 1. steps: of the run."""
        return jnp.clip((step / steps - self.start) / max(self.ramp, 1e-9), 0.0, 1.0)


def check(name: str, value: object, holds: bool, what: str) -> None:
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
    pseudo_labels: it reads `UnlabelledBatch.pseudo_labels`.
    schedule:     its weight over the run, set from the config.
    """

    loss: Callable[["UnlabelledBatch"], tuple[jax.Array, dict[str, jax.Array]]]
    whole_stacks: bool = False
    volumes: bool = False
    ema: bool = False
    pseudo_labels: bool = False
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


@dataclasses.dataclass(frozen=True)
class UnlabelledSpec:
    """The unlabelled objectives of a run.

    weak:   augmentation of the student's weak view: rotated and shifted, but not scaled (that would
            change volumes), intensities unchanged.
    strong: augmentation of the student's strong view: that of the labelled slices.
    steps:  number of steps of the run.
    structures: names of the classes, without the background.
    teacher: how pseudo-labels are made.
    """

    objectives: Mapping[str, UnlabelledObjective]
    weak: augment.Augmentation
    strong: augment.Augmentation
    seed: int
    steps: int
    structures: tuple[str, ...] = ()
    teacher: TeacherSpec = dataclasses.field(default_factory=TeacherSpec)

    @property
    def first_step(self) -> int:
        """The first step at which an objective has a weight above 0."""
        return min(objective.schedule.first_step(self.steps) for objective in self.objectives.values())

    @property
    def reads_pseudo_labels(self) -> bool:
        return any(objective.pseudo_labels for objective in self.objectives.values())

    def monitor(self) -> CollapseMonitor | None:
        """A new monitor of the teacher; None where no objective reads pseudo-labels."""
        steps = self.teacher.collapse_steps
        return CollapseMonitor(self.structures, steps) if steps and self.reads_pseudo_labels else None


class View(NamedTuple):
    """images float32 [B,K,H,W,1] as the student saw them; its logits [B,K,H,W,classes]; its
    predicted columns [B*K,M].
    """

    images: jax.Array
    logits: jax.Array
    measures: jax.Array


class Pixels(NamedTuple):
    """Augmented slices to learn from: image float32 [N,H,W,1], label (class) int32 [N,H,W], weight
    of each pixel float32 [N,H,W].
    """

    image: jax.Array
    label: jax.Array
    weight: jax.Array


class UnlabelledBatch:
    """Unlabelled images at one step. Views and predictions are computed when a loss first reads
    them, and once.

    image: uint8 [B,K,H,W,1]; K = 1 where single slices are drawn. slice_mask: bool [B,K]. subject:
    int32 [B]. valid: bool [B].
    volume: float32 [B,S] in ml (in a long-axis plane area in cm2), NaN where unknown, and
    voxel_size: float32 [B] of a voxel, in the same unit; both None where no objective needs whole
    stacks.
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
        self.voxel_size: Any = batch.get("voxel_size")
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
    def teacher_logits(self) -> jax.Array:
        """float32 [B,K,H,W,classes]: the teacher on the images without augmentation; no
        gradient.
        """
        logits = self.networks.teacher(self._slices(self.plain))
        return logits.astype(jnp.float32).reshape(*self.image.shape[:-1], -1)

    @functools.cached_property
    def teacher_probabilities(self) -> jax.Array:
        """float32 [B,K,H,W,classes]: the softmax of `teacher_logits`."""
        return jax.nn.softmax(self.teacher_logits)

    @functools.cached_property
    def pseudo_labels(self) -> PseudoLabels:
        """Of the images without augmentation, made as `config.unlabelled.teacher` says."""
        return pseudo_labels(self.teacher_logits, self, self._spec.structures, self._spec.teacher)

    @functools.cached_property
    def labelled_pixels(self) -> Pixels:
        """The labelled slices of the step. The background of a slice in which a structure is not
        annotated may hide that structure, so it has weight 0.
        """
        label = self.labelled["label"]
        certain = (label > 0) | self.labelled["annotated"].all(-1)[:, None, None]
        return Pixels(self.labelled["image"], label, certain.astype(jnp.float32))

    def augmented_slices(self, count: int, name: str, confidence: float) -> Pixels:
        """`count` of the valid slices, drawn at random, strongly augmented, with pseudo-labels.
        Slices repeat where there are fewer.

        name: of the augmentation's random numbers; the slices are the same for every name.
        confidence: pixels of a lower teacher probability have weight 0, and so has what lies
            outside the image.
        """
        valid = self.valid_slices.ravel()
        order = jnp.argsort(jnp.where(valid, jax.random.uniform(self.key("slices"), valid.shape), 2.0))
        chosen = order[jnp.arange(count) % jnp.maximum(valid.sum(), 1)]
        pseudo = self.pseudo_labels
        # One map holds label and weight, so that both move alike: 0 is "do not learn from this
        # pixel".
        label = jnp.where(pseudo.confidence >= confidence, pseudo.label + 1, 0) * self.valid_slices[..., None, None]
        image, moved = augment.augment(
            self.key(name), self._slices(self.plain)[chosen], self._slices(label)[chosen], self._spec.strong
        )
        return Pixels(image, jnp.maximum(moved - 1, 0), (moved > 0).astype(jnp.float32))

    def key(self, name: str) -> jax.Array:
        """A key of this step for random numbers of that name."""
        return rng.key(self._spec.seed, name, self._step)

    def to_weak(self, labels: jax.Array) -> jax.Array:
        """Class maps int [B,K,H,W] of the plain images, moved as the weak view is; 0 outside the
        image.
        """
        return self._move(labels, self._spec.weak, "augment_unlabelled")

    def to_strong(self, labels: jax.Array) -> jax.Array:
        """The same for the strong view."""
        return self._move(labels, self._spec.strong, "augment_unlabelled_strong")

    def _view(self, augmentation: augment.Augmentation, name: str) -> View:
        images = augment.augment(self.key(name), self.plain, None, augmentation)[0]
        logits, measures = self.networks.student(self._slices(images), train=False)
        return View(images, logits.reshape(*self.image.shape[:-1], -1), measures)

    def _move(self, labels: jax.Array, augmentation: augment.Augmentation, name: str) -> jax.Array:
        canvas = jnp.zeros((*labels.shape, 1), jnp.float32)
        return augment.augment(self.key(name), canvas, labels, augmentation.geometric)[1]

    def _slices(self, images: jax.Array) -> jax.Array:
        return images.reshape(-1, *images.shape[2:])


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
    if spec.reads_pseudo_labels:
        label = batch.labelled["label"]
        fractions = {f"labelled_fraction/{s}": (label == i).mean() for i, s in enumerate(spec.structures, start=1)}
        metrics |= {f"unlabelled/teacher/{key}": v for key, v in (batch.pseudo_labels.metrics | fractions).items()}
    return total, metrics
