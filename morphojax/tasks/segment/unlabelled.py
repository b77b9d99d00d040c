"""Whole stacks without labels beside the labelled slices: what the table says of their volumes teaches the segmentation.

The table is looked at in training alone; the network sees images, then as ever.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morphojax import augment
from morphojax.data.input import pipeline
from morphojax.data.input.stream import Stream
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables import cells
from morphojax.objectives import volume
from morphojax.tasks import cohort
from morphojax.train import devices, rng
from morphojax.train.task import Batch


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """The stream of unlabelled stacks, and the terms that they add to the loss of a segmentation.

    Every term comes in linearly between the shares `start` and `start + ramp` of the run: before, there is nothing in the
    predictions that a volume could correct.
    """

    stream: Stream
    seed: int
    steps: int
    augmentation: augment.Augmentation
    consistency: float
    huber_delta: float
    entropy: float
    pseudo: float
    tolerance: float
    confidence: float
    start: float
    ramp: float

    def images(self, batch: Batch, step: jax.Array) -> jax.Array:
        """float32 [B,K,H,W,1], moved without a change of size, which would change the volumes."""
        image = batch["image"].astype(jnp.float32) / 255
        return augment.augment(rng.key(self.seed, "augment_unlabelled", step), image, None, self.augmentation)[0]

    def aligned(self, labels: jax.Array, step: jax.Array) -> jax.Array:
        """int [B,K,H,W] of the images as they are -> where `images` has moved them; 0 beside the image."""
        geometric = self.augmentation.geometric
        key, canvas = rng.key(self.seed, "augment_unlabelled", step), jnp.zeros((*labels.shape, 1), jnp.float32)
        return augment.augment(key, canvas, labels, geometric)[1]

    def loss(
        self, logits: jax.Array, plain_logits: jax.Array | None, batch: Batch, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum of the terms, and their metrics.

        logits: [B,K,H,W,C] of `images`. plain_logits: the same of the images as they are, by the network as in evaluation,
            which give the pseudo-labels; None without these. No gradient.
        """
        valid, mask, voxel = batch["valid"], batch["slice_mask"], batch["voxel_ml"]
        ramp = jnp.clip((step / self.steps - self.start) / max(self.ramp, 1e-9), 0.0, 1.0)
        predicted = volume.volumes(jax.nn.softmax(logits.astype(jnp.float32))[..., 1:], mask, voxel, valid)
        apart, metrics = volume.consistency(predicted, batch["volume"], valid, huber_delta=self.huber_delta)
        doubt, found = volume.entropy(logits, mask & valid[:, None])
        metrics |= found | {"loss_consistency": apart, "loss_entropy": doubt}
        total = self.consistency * apart + self.entropy * doubt
        if plain_logits is not None:
            guess = jax.lax.stop_gradient(jax.nn.softmax(plain_logits.astype(jnp.float32)))
            args = (guess, mask, voxel, batch["volume"], self.tolerance, self.confidence, valid)
            labels, weight, found = volume.pseudo_labels(*args)
            # One map for labels and their weight, so that both move alike: 0 is "do not learn from this".
            moved = self.aligned(jnp.where(weight > 0, labels + 1, 0), step)
            value, agreed = volume.pseudo_cross_entropy(
                logits, jnp.maximum(moved - 1, 0), (moved > 0).astype(jnp.float32)
            )
            metrics |= found | agreed | {"loss_pseudo": value}
            total += self.pseudo * value
        return ramp * total, {f"unlabelled/{name}": value for name, value in metrics.items()} | {
            "unlabelled/ramp": ramp
        }


def build(
    dataset: Dataset,
    *,
    plane: str,
    frames: tuple[str, ...],
    structures: tuple[str, ...],
    taken: np.ndarray,
    splits: tuple[str, ...],
    augmentation: augment.Augmentation,
    seed: int,
    steps: int,
    workers: int,
    batch_size: int,
    subjects: tuple[str, ...],
    slices: int,
    shuffled: bool,
    **terms: float,
) -> Unlabelled:
    """From `config.unlabelled`.

    Args:
        taken: indices of the subjects that cannot be unlabelled ones: the labelled, and those of the validation.
        shuffled: every subject gets the volumes of another: the control. What this gains, it gained without what the table knows.
        terms: the weights and thresholds of `Unlabelled`.

    Raises:
        ValueError: a weight or share out of range, no term at all, nobody without a label, or no known volume among them.
    """
    _check(terms)
    devices.check_batch_size(batch_size, key="config.unlabelled.batch_size")
    everybody = cohort.select_subjects(
        dataset, split_names=splits, subjects=subjects, fraction=1.0, seed=seed, key="config.unlabelled.subjects"
    )
    others = np.setdiff1d(everybody, taken)
    known = cells.volumes(dataset.table, dataset.schema, structures, frames)
    others = others[np.isfinite(known[others]).any(axis=(1, 2))]
    if not len(others):
        raise ValueError(
            f"config.unlabelled: of {len(everybody)} subjects none is unlabelled and has a volume of {', '.join(structures)} in the "
            "table (columns with `measures` in the data dictionary)"
        )
    if shuffled:
        circle = np.random.default_rng((seed, *b"shuffled")).permutation(others)
        known[circle] = known[np.roll(circle, 1)]
    devices.say(f"{len(others)} unlabelled subjects with volumes in the table")
    stream = pipeline.stacks(
        dataset,
        plane=plane,
        subjects=others,
        volumes=known,
        batch_size=batch_size,
        seed=seed,
        train=True,
        slices=slices,
        frames=frames,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=workers,
    )
    # Intensities as they are: what an augmented one looks like, the labelled slices teach, and here it would only mislead the volumes.
    moved: Any = dataclasses.replace(augmentation.geometric, scale=(1.0, 1.0), crop=None)
    return Unlabelled(stream=stream, seed=seed, steps=steps, augmentation=moved, **terms)


def _check(terms: dict[str, float]) -> None:
    for name in ("consistency", "entropy", "pseudo"):
        if not 0 <= terms[name] < math.inf:
            raise ValueError(f"config.unlabelled.{name}={terms[name]}: give a weight, 0 or more")
    if not any(terms[name] for name in ("consistency", "entropy", "pseudo")):
        raise ValueError("config.unlabelled: consistency, entropy and pseudo are all 0; give one of them a weight")
    if not terms["huber_delta"] > 0:
        raise ValueError(f"config.unlabelled.huber_delta={terms['huber_delta']}: give an error of log volumes above 0")
    for name in ("start", "ramp", "confidence"):
        if not 0 <= terms[name] <= 1:
            raise ValueError(f"config.unlabelled.{name}={terms[name]}: give a share, from 0 to 1")
    if not 0 <= terms["tolerance"] < math.inf:
        raise ValueError(f"config.unlabelled.tolerance={terms['tolerance']}: give a relative error, 0 or more")
