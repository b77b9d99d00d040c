"""Loads a segmentation run, which predicts class probabilities of a stack on its native grid."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from morphojax import anatomy
from morphojax.data import geometry
from morphojax.tasks.segment.build import build_model
from morphojax.train import checkpoint
from morphojax.train.run import RunError, read_json

# What a prediction needs of preprocessing.json.
_IMAGES = {
    "planes": [str],
    "grid": {"spacing_mm": float, "size": int},
    "percentiles": [float],
    "structures": [str],
    "channels": str,
    "measures": [object],
    "dataset_fingerprint": str,
}
# Of sizes.json: see tasks/segment/sizes.py.
_SIZES = {str: {str: {"min": float, "max": float, "subjects": int}}}


def largest_components(label: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Keeps the largest component of each structure in [X, Y, Z]; the rest becomes background.

    Voxels of a component are connected through faces. Returns the label, and by structure that
    occurs the fraction of its voxels outside its largest component.
    """
    kept, islands = np.zeros_like(label), {}
    for value in np.unique(label[label > 0]):
        components, _ = ndimage.label(label == value)
        sizes = np.bincount(components.ravel())[1:]
        kept[components == 1 + sizes.argmax()] = value
        islands[anatomy.STRUCTURES[value - 1]] = float(1 - sizes.max() / sizes.sum())
    return kept, islands


def mean_probabilities(members: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over the members of an ensemble."""
    return members[0] if len(members) == 1 else np.mean(members, axis=0)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained segmentation run, ready to predict.

    apply:       image float32 [B, H, W, 1] in [0, 1] -> logits [B, H, W, 1 + len(structures)];
        class 0 is background.
    percentiles: of a native stack's intensities; they become 0 and 1.
    batch_size:  slices per call of `apply`; the last batch is padded, so that one shape is
        compiled.
    largest_component: labels keep only the largest component of each structure of a stack.
    sizes:       of the structures in training, by plane, structure and `min`, `max`, `subjects`
        (tasks/segment/sizes.py); None for a run of an older version.
    others:      the other members of an ensemble (inference/ensemble.py), of the same planes, grid,
        percentiles and structures. Probabilities are the mean over all members.
    """

    planes: tuple[str, ...]
    grid: geometry.Grid
    percentiles: tuple[float, float]
    structures: tuple[str, ...]
    apply: Callable[[np.ndarray], Any]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset_fingerprint: str = ""
    batch_size: int = 16
    largest_component: bool = False
    sizes: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    others: tuple["Run", ...] = ()

    def predict_grid(self, slices: np.ndarray) -> np.ndarray:
        """uint8 [Z, H, W] on the training grid -> probabilities float32 [Z, H, W, classes]."""
        return mean_probabilities(self.predict_members(slices))

    def predict_members(self, slices: np.ndarray) -> list[np.ndarray]:
        """As `predict_grid`, of each member of an ensemble; of a single run, its own alone."""
        return [self._predict_own(slices), *(run._predict_own(slices) for run in self.others)]

    def _predict_own(self, slices: np.ndarray) -> np.ndarray:
        count, size = len(slices), self.grid.size
        if slices.shape[1:] != (size, size) or slices.dtype != np.uint8:
            raise ValueError(f"slices must be uint8 [Z, {size}, {size}], not {slices.dtype} {slices.shape}")
        out = np.empty((*slices.shape, 1 + len(self.structures)), np.float32)
        for start in range(0, count, self.batch_size):
            images = np.zeros((self.batch_size, size, size, 1), np.float32)
            chosen = slices[start : start + self.batch_size]
            images[: len(chosen), ..., 0] = chosen.astype(np.float32) / 255
            logits = np.asarray(self.apply(images), np.float32)[: len(chosen)]
            exponentials = np.exp(logits - logits.max(-1, keepdims=True))
            out[start : start + len(chosen)] = exponentials / exponentials.sum(-1, keepdims=True)
        if not np.isfinite(out).all():
            raise RunError("the model predicts NaN: its checkpoint is not usable; choose another with --checkpoint")
        return out

    def place(self, image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, geometry.Placement]:
        """A native stack [X, Y, Z] as uint8 [Z, H, W] on the training grid, and its placement."""
        return geometry.to_input(image, affine, self.grid, self.percentiles)

    def to_native(self, probabilities: np.ndarray, placement: geometry.Placement) -> np.ndarray:
        """[Z, H, W, classes] -> [X, Y, Z, classes], by linear interpolation.

        Outside the crop everything is background.
        """
        native = geometry.to_native(probabilities, placement, 1)
        native[..., 0] += np.maximum(1 - native.sum(-1), 0)
        return native

    def structures_of(self, plane: str) -> tuple[str, ...]:
        """The structures of the run that a plane shows."""
        return tuple(s for s in self.structures if s in anatomy.PLANE_STRUCTURES[plane])

    def predict(self, image: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Probabilities float32 [X, Y, Z, classes] of a native stack [X, Y, Z].

        affine: of the stack, voxel -> mm, RAS+.

        Raises ValueError where the geometry is not that of a stack of slices along Z.
        """
        slices, placement = self.place(image, affine)
        return self.to_native(self.predict_grid(slices), placement)

    def labels(self, probabilities: np.ndarray, plane: str) -> np.ndarray:
        """Canonical ids, uint8 [...], of the most probable class among those that the plane shows.

        probabilities: of a stack in any orientation, [., ., ., classes].
        """
        label = self.classes(probabilities, plane)
        return largest_components(label)[0] if self.largest_component else label

    def classes(self, probabilities: np.ndarray, plane: str) -> np.ndarray:
        """As `labels`, with all components."""
        shown = [0, *(i for i, s in enumerate(self.structures, 1) if s in anatomy.PLANE_STRUCTURES[plane])]
        canonical = np.array([anatomy.BACKGROUND, *(anatomy.LABEL_ID[s] for s in self.structures)], np.uint8)[shown]
        return canonical[probabilities[..., shown].argmax(-1)]


def load_run(
    directory: str | Path,
    which: str | int = "best",
    weights: str = "model",
    batch_size: int = 16,
    largest_component: bool = False,
) -> Run:
    """Loads a segmentation run: preprocessing.json, config.json, sizes.json and a checkpoint.

    Args:
        which: `best` (the last checkpoint where none was evaluated), `last`, or the step of a kept
            checkpoint.
        weights: `model` or `ema`, as in `checkpoint.load_variables`.
        batch_size, largest_component: see `Run`.

    Raises:
        RunError: a file is missing or is not one of a segmentation run.
        CheckpointError: no usable checkpoint, or no EMA weights in it.
    """
    directory = Path(directory)
    images, config = read_json(directory, "preprocessing.json", _IMAGES), read_json(directory, "config.json", {})
    path = directory / "preprocessing.json"
    if not images["structures"] or images["channels"] != "frame":
        raise RunError(f"{directory} is no segmentation run: give the directory of a run of a segment config")
    try:
        low, high = (float(p) for p in images["percentiles"])
        structures = tuple(images["structures"])
        planes, grid = tuple(images["planes"]), geometry.Grid.from_json(images["grid"])
        fingerprint, measures = images["dataset_fingerprint"], len(images["measures"])
    except (TypeError, ValueError) as error:
        raise RunError(f"{path}: not as a run writes it ({error!r}); restore the file, or train again") from error
    try:
        model = build_model(config, len(structures) + 1, measures)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"{directory / 'config.json'}: not as a run writes it ({error!r}); restore the file, or train again"
        ) from error
    variables = checkpoint.load_variables(directory, which, weights)
    _check_same(directory, model, grid, variables)
    variables = jax.device_put(variables)
    apply = jax.jit(lambda image: model.apply(variables, image, train=False)[0])
    sizes = read_json(directory, "sizes.json", _SIZES) if (directory / "sizes.json").exists() else None
    described = (planes, grid, (low, high), structures, apply, config, fingerprint)
    return Run(*described, batch_size=batch_size, largest_component=largest_component, sizes=sizes)


def _check_same(directory: Path, model: Any, grid: geometry.Grid, variables: Mapping[str, Any]) -> None:
    """Raises RunError, with the first differences, where checkpoint and config do not fit."""
    image = jax.ShapeDtypeStruct((1, grid.size, grid.size, 1), jnp.float32)
    expected = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        return {jax.tree_util.keystr(k): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(tree)}

    needed, stored = shapes(dict(expected)), shapes({k: v for k, v in variables.items() if v})
    wrong = sorted(k for k in needed.keys() | stored.keys() if needed.get(k) != stored.get(k))
    if wrong:
        first = "; ".join(
            f"{k}: {stored.get(k, 'absent')} in the checkpoint, {needed.get(k, 'absent')}" for k in wrong[:3]
        )
        raise RunError(
            f"{directory}: the checkpoint is of another architecture than config.json says. "
            f"{len(wrong)} differences, first: {first} in the config"
        )
