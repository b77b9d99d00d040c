"""What an unlabelled objective is given: a batch of unlabelled images, with the networks'
predictions and pseudo-labels.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from morphojax import augment
from morphojax.anatomy import PLANE_STRUCTURES, PLANES
from morphojax.tasks.segment.networks import Networks
from morphojax.tasks.segment.unlabelled.teacher import PseudoLabels, TeacherSpec, make_pseudo_labels
from morphojax.train import rng
from morphojax.train.task import Batch


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What does not change from batch to batch.

    weak:       augmentation of the student's weak view: rotated and shifted, but not scaled (that
                would change volumes), intensities unchanged.
    strong:     augmentation of the student's strong view: that of the labelled slices.
    structures: names of the classes, without the background.
    teacher:    how pseudo-labels are made.
    """

    weak: augment.Augmentation
    strong: augment.Augmentation
    seed: int
    structures: tuple[str, ...] = ()
    teacher: TeacherSpec = dataclasses.field(default_factory=TeacherSpec)

    @property
    def shown(self) -> np.ndarray:
        """bool [planes, classes]: whether a plane shows a structure; background always."""
        return np.array([[True, *(s in PLANE_STRUCTURES[p] for s in self.structures)] for p in PLANES])


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

    def __init__(self, batch: Batch, labelled: Batch, networks: Networks, spec: BatchSpec, step: jax.Array):
        single = batch["image"].ndim == 4  # slices, which become stacks of one slice
        self.image = batch["image"][:, None] if single else batch["image"]
        self.slice_mask = jnp.ones(self.image.shape[:2], bool) if single else batch["slice_mask"]
        self.valid, self.subject = batch["valid"], batch["subject"]
        self.volume: Any = batch.get("volume")
        self.voxel_size: Any = batch.get("voxel_size")
        self._plane = batch.get("plane")  # of slices; stacks are of one plane, and so are the classes
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
        logits = self.teacher_logits
        if self._plane is not None:
            shown = jnp.asarray(self._spec.shown)[self._plane][:, None, None, None]
            logits = jnp.where(shown, logits, jnp.finfo(jnp.float32).min)
        volumes = (self.volume, self.voxel_size) if self._spec.teacher.calibrate else None
        return make_pseudo_labels(logits, self.valid_slices, volumes, self._spec.structures, self._spec.teacher)

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
        confidence: pixels of a lower teacher probability have weight 0. So have pixels outside the
            image.
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

    def confident(self, confidence: float) -> jax.Array:
        """The fraction of pixels whose pseudo-label has at least that probability."""
        counted = jnp.broadcast_to(self.valid_slices[..., None, None], self.pseudo_labels.label.shape)
        return jnp.sum(counted & (self.pseudo_labels.confidence >= confidence)) / jnp.maximum(jnp.sum(counted), 1)

    @property
    def labelled_fractions(self) -> dict[str, jax.Array]:
        """The fraction of pixels of each structure in the labelled slices that annotate it."""
        annotated, pixels = self.labelled["annotated"], self.labelled["label"][0].size
        found = {}
        for i, name in enumerate(self._spec.structures):
            inside = (self.labelled["label"] == i + 1) & annotated[:, i, None, None]
            found[name] = inside.sum() / jnp.maximum(annotated[:, i].sum() * pixels, 1)
        return found

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
