"""Image-only segmentation: any encoder's feature pyramid under a decoder, from scratch or from a
pretrained encoder.

The pure functions that training and validation are made of. They take all they need as arguments:
parameters, state, constants, a batch, and a `SegmentSpec` of everything that does not change during
a run. `build.py` puts them together from a config.
"""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from morphojax import anatomy, augment
from morphojax.evaluation import figures
from morphojax.models.towers import Segmenter
from morphojax.objectives.segmentation import dice_ce
from morphojax.tasks.segment import conditioning
from morphojax.tasks.segment.networks import Networks
from morphojax.tasks.segment.unlabelled import base
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch
from morphojax.train import dynamics, rng
from morphojax.train.optimizer import Levels
from morphojax.train.state import TrainState
from morphojax.train.task import Batch

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SegmentSpec:
    """What does not change during a run.

    structures:      class i of the model is the i-th of them, class 0 the background.
    size:            side of the square images, in pixels.
    augmentation:    applied to the labelled slices.
    dice_weight:     weight of the Dice loss; cross-entropy has the rest.
    measures:        the columns that the decoder is conditioned on, if any.
    measures_weight: weight of their squared error.
    unlabelled:      the objectives on unlabelled images, if any.
    train_encoder:   False: the encoder is frozen, running statistics included.
    """

    model: Segmenter
    structures: tuple[str, ...]
    size: int
    augmentation: augment.Augmentation
    seed: int
    dice_weight: float
    measures: tuple[str, ...] = ()
    measures_weight: float = 1.0
    unlabelled: base.UnlabelledSpec | None = None
    train_encoder: bool = True

    @property
    def levels(self) -> Levels:
        return {"encoder": self.model.encoder.levels, "decoder": self.model.decoder.levels}

    def with_seed(self, seed: Any) -> Self:
        unlabelled = None if self.unlabelled is None else self.unlabelled.with_seed(seed)
        return dataclasses.replace(self, seed=seed, unlabelled=unlabelled)

    @property
    def class_of(self) -> np.ndarray:
        """int32 [256]: canonical label id -> class; a structure that the model does not know is
        background.
        """
        classes = np.zeros(256, np.int32)
        for i, name in enumerate(self.structures, start=1):
            classes[anatomy.LABEL_ID[name]] = i
        return classes

    @property
    def label_of(self) -> np.ndarray:
        """uint8 [classes]: the reverse of `class_of`."""
        return np.array([anatomy.BACKGROUND, *(anatomy.LABEL_ID[s] for s in self.structures)], np.uint8)


def init_variables(spec: SegmentSpec) -> dict[str, PyTree]:
    image = jnp.zeros((2, spec.size, spec.size, 1))
    return dict(spec.model.init(rng.key(spec.seed, "init"), image, train=False))


def augmented(batch: Batch, step: jax.Array, spec: SegmentSpec) -> tuple[jax.Array, jax.Array]:
    """image float32 [B,H,W,1] in 0..1 and label (canonical ids) [B,H,W], moved alike."""
    image = batch["image"].astype(jnp.float32) / 255
    return augment.augment(rng.key(spec.seed, "augment", step), image, batch["label"], spec.augmentation)


def loss(
    params: PyTree, state: TrainState, constants: Any, batch: Batch, spec: SegmentSpec
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, PyTree]]]:
    """Loss, (metrics, updated collections) of a training batch: labelled slices and, under
    `unlabelled`, images without labels.
    """
    image, label = augmented(batch, state.step, spec)
    classes = jnp.asarray(spec.class_of)[label]
    networks = Networks(spec.model, params, state, spec.seed, spec.train_encoder)
    logits, measured = networks.student(image, train=True)
    total, metrics = dice_ce(logits, classes, batch["annotated"], dice_weight=spec.dice_weight)
    scalars = {name: metric for name, metric in metrics.items() if metric.ndim == 0}
    subject, valid = batch["subject"], batch["valid"]
    if spec.unlabelled is not None:
        labelled = {"image": image, "label": classes, "annotated": batch["annotated"]}
        images = UnlabelledBatch(batch["unlabelled"], labelled, networks, spec.unlabelled.batch, state.step)
        extra, extra_scalars = base.loss(images, spec.unlabelled, state.step)
        total, scalars = total + extra, scalars | extra_scalars
        if spec.measures:
            measured = jnp.concatenate([measured, images.weak.measures])
            subject = jnp.concatenate([subject, jnp.repeat(images.subject, images.slice_mask.shape[1])])
            valid = jnp.concatenate([valid, images.valid_slices.reshape(-1)])
    if spec.measures:
        error, extra_scalars = conditioning.loss(measured, subject, valid, constants)
        total, scalars = total + spec.measures_weight * error, scalars | extra_scalars
    return total, (scalars, networks.collections)


def predict(state: TrainState, batch: Batch, spec: SegmentSpec) -> jax.Array:
    """Logits [B,H,W,classes] in evaluation mode."""
    return spec.model.apply(state.variables, batch["image"].astype(jnp.float32) / 255, train=False)[0]  # pyrefly: ignore


def pictures(state: TrainState, constants: Any, batch: Batch, spec: SegmentSpec) -> jax.Array:
    """What `draw` needs: the most likely class of each pixel, uint8 [B,H,W]."""
    return predict(state, batch, spec).argmax(-1).astype(jnp.uint8)


def evaluate(state: TrainState, constants: Any, batch: Batch, spec: SegmentSpec) -> dict[str, jax.Array]:
    """What `summarise` needs of a batch."""
    logits, classes = predict(state, batch, spec), jnp.asarray(spec.class_of)[batch["label"]]
    value, metrics = dice_ce(logits, classes, batch["annotated"], valid=batch["valid"], dice_weight=spec.dice_weight)
    sums = {name: metrics[name] for name in ("intersection", "cardinality")}
    return sums | {"loss": value} | {name: batch[name] for name in ("subject", "plane", "valid")}


def encode(state: TrainState, constants: Any, spec: SegmentSpec) -> Any:
    """The encoder's features of the reference images."""
    image = constants["reference_images"].astype(jnp.float32) / 255
    return spec.model.apply(state.variables, image, method=lambda module, image: module.encoder(image, False))


def reference(state: TrainState, constants: Any, spec: SegmentSpec) -> dict[str, Any]:
    """What `diagnose` compares with, at the start of the run."""
    return {"params": jax.tree.map(jnp.copy, state.params), "features": encode(state, constants, spec)}


def diagnose(state: TrainState, constants: Any, batch: Batch, spec: SegmentSpec) -> dict[str, jax.Array]:
    """How far the run has gone from its start, see `dynamics.drift`."""
    start, now = constants["start"], encode(state, constants, spec)
    return dynamics.drift(start["params"], state.params, start["features"], now, spec.levels)


def draw(prediction: np.ndarray, batch: Batch, spec: SegmentSpec) -> dict[str, np.ndarray]:
    """Six slices with the outlines of label (left) and prediction (right)."""
    known = np.isin(batch["label"], spec.label_of)
    labels = np.where(known, batch["label"], 0).astype(np.uint8)
    shown = np.linspace(0, int(np.sum(batch["valid"])) - 1, 6).astype(int)
    rows = [figures.overlay(batch["image"][i, ..., 0], labels[i], spec.label_of[prediction[i]]) for i in shown]
    return {"label_left_prediction_right": np.concatenate(rows, axis=0)}


def summarise(outputs: list[dict[str, np.ndarray]], spec: SegmentSpec) -> dict[str, float]:
    """Dice per structure on the training grid: pixels pooled over the slices and frames of a
    subject's plane, then averaged over these.

    A structure that is neither in the labels nor in the prediction of a subject's plane does not
    count for it.
    """
    valid = np.concatenate([o["valid"] for o in outputs])
    pairs = np.stack([np.concatenate([o[n] for o in outputs])[valid] for n in ("subject", "plane")], axis=1)
    views, view_of = np.unique(pairs, axis=0, return_inverse=True)
    sums = {n: np.concatenate([o[n] for o in outputs])[valid] for n in ("intersection", "cardinality")}
    dice = np.full((len(views), len(spec.structures)), np.nan)
    for row in range(len(views)):
        overlap, size = (sums[n][view_of.ravel() == row].sum(0) for n in ("intersection", "cardinality"))
        dice[row] = np.divide(2 * overlap, size, out=np.full(size.shape, np.nan), where=size > 0)
    means = {
        f"dice/{s}": float(np.nanmean(d)) for s, d in zip(spec.structures, dice.T, strict=True) if np.isfinite(d).any()
    }
    overall = float(np.mean(list(means.values()))) if means else 0.0
    return means | {"dice": overall, "loss": float(np.mean([o["loss"] for o in outputs]))}
