"""A column of the table, predicted from images alone: image encoder, mean over slices and a linear
head, trained together.

The pure functions that training and validation are made of. They take all they need as arguments:
parameters, state, constants, a batch, and a `ProbeSpec` of everything that does not change during a
run. `build.py` puts them together from a config.
"""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from morphojax import augment
from morphojax.evaluation import prediction
from morphojax.models.towers import fill_masked, mean_of_slices
from morphojax.tasks.probe.label import Label
from morphojax.train import rng
from morphojax.train.optimizer import Levels
from morphojax.train.state import TrainState
from morphojax.train.task import Batch

PyTree = Any


@dataclasses.dataclass(frozen=True)
class ProbeSpec:
    """What does not change during a run.

    label:       what is predicted.
    image_shape: (K, H, W, C) of a subject's images.
    """

    encoder: Any
    label: Label
    image_shape: tuple[int, int, int, int]
    augmentation: augment.Augmentation
    seed: int
    train_encoder: bool = True

    @property
    def classes(self) -> int:
        """Of the label; 0 for a continuous one."""
        return len(self.label.classes)

    @property
    def levels(self) -> Levels:
        return {"encoder": self.encoder.levels}

    def with_seed(self, seed: Any) -> Self:
        return dataclasses.replace(self, seed=seed)


def init_variables(spec: ProbeSpec) -> dict[str, PyTree]:
    """The head starts at zero: the first prediction is the mean of the training labels, or gives
    every class the same probability.
    """
    k, height, width, channels = spec.image_shape
    image = jnp.zeros((2 * k, height, width, channels))
    features, made = spec.encoder.init_with_output(rng.key(spec.seed, "init"), image, train=False)
    variables = {name: {"encoder": tree} for name, tree in made.items()}
    kernel = jnp.zeros((features.pooled.shape[-1], spec.label.outputs))
    variables["params"]["head"] = {"kernel": kernel, "bias": jnp.zeros(spec.label.outputs)}
    return variables


def predict(
    variables: dict[str, PyTree], image: jax.Array, mask: jax.Array, spec: ProbeSpec, step: jax.Array | None = None
) -> tuple[jax.Array, dict[str, PyTree]]:
    """Output [B, outputs] and the collections after it. image: float32 [B,K,H,W,C]; mask: bool
    [B,K].

    With a step the encoder is in training mode, unless it is frozen: then it is in evaluation mode
    and its statistics stay.
    """
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    train = step is not None and spec.train_encoder
    features, updated = spec.encoder.apply(
        {name: tree["encoder"] for name, tree in variables.items()},
        fill_masked(image, mask).reshape(-1, *image.shape[2:]),
        train=train,
        mutable=list(collections) if train else [],
        rngs={"draws": rng.key(spec.seed, "draws", step)},
    )
    pooled = mean_of_slices(features.pooled.reshape(*mask.shape, -1), mask)
    pooled = pooled if spec.train_encoder else jax.lax.stop_gradient(pooled)
    head = variables["params"]["head"]
    return pooled @ head["kernel"] + head["bias"], collections | {n: {"encoder": t} for n, t in updated.items()}


def augmented(batch: Batch, step: jax.Array, spec: ProbeSpec) -> jax.Array:
    """float32 [B,K,H,W,C] in 0..1."""
    image = batch["image"].astype(jnp.float32) / 255
    return augment.augment(rng.key(spec.seed, "augment", step), image, None, spec.augmentation)[0]


def loss(
    params: PyTree, state: TrainState, constants: Any, batch: Batch, spec: ProbeSpec
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, PyTree]]]:
    """Loss, (no metrics, updated collections) of a training batch."""
    variables, image = {"params": params, **state.collections}, augmented(batch, state.step, spec)
    output, collections = predict(variables, image, batch["slice_mask"], spec, state.step)
    each = loss_per_subject(output, batch["values"][:, 0], constants["weights"], spec.classes)
    return each.mean(), ({}, collections)


def evaluate(state: TrainState, constants: Any, batch: Batch, spec: ProbeSpec) -> dict[str, jax.Array]:
    """What `summarise` needs of a batch."""
    image, target = batch["image"].astype(jnp.float32) / 255, batch["values"][:, 0]
    output, _ = predict(state.variables, image, batch["slice_mask"], spec)
    each = loss_per_subject(output, target, constants["weights"], spec.classes)
    return {"output": output, "target": target, "loss": each, "valid": batch["valid"]}


def summarise(batches: list[dict[str, np.ndarray]], spec: ProbeSpec) -> dict[str, float]:
    """The mean loss of the validation subjects, and the scores of their predictions
    (`evaluation.prediction.measures`).
    """
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    output, target, each = (whole[name][whole["valid"]] for name in ("output", "target", "loss"))
    scores = prediction.measures(spec.label.of_target(target), spec.label.of_network(output))
    return {"loss": float(each.mean()), **scores}


def pictures(state: TrainState, constants: Any, batch: Batch, spec: ProbeSpec) -> jax.Array:
    """What `draw` needs: the augmented images, float32 [B,K,H,W,C]."""
    return augmented(batch, state.step, spec)


def draw(images: np.ndarray, batch: Batch, spec: ProbeSpec) -> dict[str, np.ndarray]:
    """The first slice of eight subjects, side by side. images: as of `pictures`."""
    rows = np.clip(images[:8, 0].mean(-1) * 255, 0, 255).astype(np.uint8)
    return {"augmented": np.repeat(np.concatenate(list(rows), axis=1)[..., None], 3, axis=-1)}


def class_weights(target: np.ndarray, classes: int) -> np.ndarray:
    """float32 [max(classes, 1)] that give every class the same total weight, with mean 1 over the
    subjects; [1] for a continuous label.
    """
    if not classes:
        return np.ones(1, np.float32)
    return (len(target) / (classes * np.bincount(target.astype(int), minlength=classes))).astype(np.float32)


def loss_per_subject(output: jax.Array, target: jax.Array, weights: jax.Array, classes: int) -> jax.Array:
    """float32 [B]: weighted cross-entropy of logits [B, classes], or, with no classes, the squared
    error of [B, 1].
    """
    output = output.astype(jnp.float32)
    if not classes:
        return jnp.square(output[:, 0] - target)
    code = target.astype(jnp.int32)
    return weights[code] * optax.softmax_cross_entropy_with_integer_labels(output, code)
