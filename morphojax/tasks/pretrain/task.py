"""Pretraining of an image encoder with any sum of objectives, on images alone or on images and
table rows.

The pure functions that training and validation are made of. They take all they need as arguments:
parameters, state, constants, a batch, and a `PretrainSpec` of everything that does not change
during a run. `build.py` puts them together from a config.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.pretrainer import Pretrainer, TowerOutputs
from morphojax.tasks.pretrain.inputs import Inputs
from morphojax.tasks.pretrain.objectives import BatchInfo, Objective
from morphojax.tasks.pretrain.objectives.geometry import geometry
from morphojax.train import dynamics, rng
from morphojax.train.optimizer import Levels
from morphojax.train.state import TrainState
from morphojax.train.task import Batch

PyTree = Any
Outputs = dict[str, dict[str, Any]]  # by objective, the arrays of its head


@dataclasses.dataclass(frozen=True)
class PretrainSpec:
    """What does not change during a run.

    objectives:  by name; each has a head of that name in the model.
    inputs:      how views of the images and variants of the rows are drawn.
    image_shape: (K, H, W, C) of a subject's images.
    columns:     names of the table's columns.
    """

    model: Pretrainer
    objectives: Mapping[str, Objective]
    inputs: Inputs
    image_shape: tuple[int, int, int, int]
    columns: tuple[str, ...]
    seed: int

    @property
    def train_encoder(self) -> bool:
        return self.model.train_encoder

    @property
    def levels(self) -> Levels:
        decoder = {"decoder": self.model.decoder.levels} if self.model.decoder else {}
        return {"encoder": self.model.encoder.levels} | decoder

    def with_seed(self, seed: Any) -> Self:
        return dataclasses.replace(self, seed=seed, inputs=dataclasses.replace(self.inputs, seed=seed))

    @property
    def has_target(self) -> bool:
        """Whether an objective compares with the EMA network (BYOL's target)."""
        return any(objective.momentum for objective in self.objectives.values())


class Forward(NamedTuple):
    """One pass through the towers and all heads. collections: the variable collections after it."""

    outputs: Outputs
    info: BatchInfo
    collections: dict[str, PyTree]
    towers: TowerOutputs


def init_variables(spec: PretrainSpec) -> dict[str, PyTree]:
    f, inputs, k = len(spec.columns), spec.inputs, spec.image_shape[0]
    rows = {name: (jnp.zeros((2, f)), jnp.zeros((2, f), bool), jnp.zeros((2, f))) for name in inputs.rows}
    images, mask = jnp.zeros((2, inputs.views, *spec.image_shape)), jnp.ones((2, k), bool)
    keys = {"params": rng.key(spec.seed, "init"), "draws": rng.key(spec.seed, "draws")}
    return dict(spec.model.init(keys, images, mask, rows, jnp.ones((2, 2), bool), train=False))


def forward(
    variables: dict[str, PyTree],
    constants: Any,
    batch: Batch,
    spec: PretrainSpec,
    *,
    step: jax.Array | None,
    train: bool,
    gate: jax.Array | None = None,
) -> Forward:
    """step: of the draws; None on validation, where draws are the same at every pass. gate [B,F]:
    added to the rows' masks.
    """
    rows, masked = spec.inputs.table(batch, constants, step)
    if gate is not None:
        rows = {name: (values, missing, m + gate) for name, (values, missing, m) in rows.items()}
    collections = [name for name in variables if name != "params"]
    (outputs, towers), updated = spec.model.apply(
        variables,
        spec.inputs.images(batch, step),
        batch["slice_mask"],
        rows,
        spec.inputs.negatives(batch),
        train=train,
        mutable=collections,
        rngs={"draws": rng.key(spec.seed, "draws", step)},
    )
    return Forward(outputs, spec.inputs.info(batch, constants, masked), dict(updated), towers)


def forward_with_target(
    params: PyTree,
    state: TrainState,
    constants: Any,
    batch: Batch,
    spec: PretrainSpec,
    step: jax.Array | None,
    gate: jax.Array | None = None,
) -> Forward:
    """`forward`, in training mode where there is a step. Objectives with a target find its arrays
    under `target`, without gradient.
    """
    variables = {"params": params, **state.collections}
    student = forward(variables, constants, batch, spec, step=step, train=step is not None, gate=gate)
    if not spec.has_target:
        return student
    # By batch statistics, on validation too: the running statistics are the student's.
    variables = {"params": state.ema["params"], **state.collections}
    target = jax.lax.stop_gradient(forward(variables, constants, batch, spec, step=step, train=True).outputs)
    outputs = {
        name: arrays | ({"target": target[name]} if spec.objectives[name].momentum else {})
        for name, arrays in student.outputs.items()
    }
    return student._replace(outputs=outputs)


def loss(
    params: PyTree, state: TrainState, constants: Any, batch: Batch, spec: PretrainSpec
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, PyTree]]]:
    """Loss, (metrics, updated collections) of a training batch."""
    result = forward_with_target(params, state, constants, batch, spec, state.step)
    total, metrics = weighted_sum(spec.objectives, result.outputs, result.info)
    return total, (metrics, result.collections)


def weighted_sum(
    objectives: Mapping[str, Objective], outputs: Outputs, info: BatchInfo
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of the objectives' losses, and their metrics as `<objective>/<metric>`."""
    total, metrics = jnp.float32(0.0), {}
    for name, objective in objectives.items():
        value, own = objective.loss(outputs[name], info)
        total += objective.weight * value if objective.weight else 0.0
        metrics |= {f"{name}/loss": value} | {f"{name}/{metric}": v for metric, v in own.items()}
    return total, metrics


def evaluate(state: TrainState, constants: Any, batch: Batch, spec: PretrainSpec) -> dict[str, Any]:
    """What `summarise` needs of a batch: the arrays of some objectives, the losses of the
    others.
    """
    result = forward_with_target(state.params, state, constants, batch, spec, None)
    objectives = spec.objectives
    by_batch = {
        name: objective.loss(result.outputs[name], result.info)
        for name, objective in objectives.items()
        if not objective.whole_validation_set
    }
    outputs = {name: result.outputs[name] for name in objectives if objectives[name].whole_validation_set}
    return {"outputs": outputs, "info": result.info, "by_batch": by_batch}


def summarise(batches: list[dict[str, Any]], spec: PretrainSpec) -> dict[str, float]:
    """Each objective's loss and metrics on the whole validation set at once, the geometry of its
    pairs of embeddings, and `loss`, their weighted sum.

    On the whole set a contrast is harder than within a batch, and, where nothing is drawn, the same
    whatever the batch size. Objectives whose arrays are too large for that: the mean over batches,
    weighted by their number of subjects. `loss`, by which the best checkpoint is chosen, leaves out
    objectives that only monitor.
    """

    def concatenate(*parts: np.ndarray) -> jax.Array:
        return jnp.asarray(np.concatenate(parts) if np.ndim(parts[0]) else parts[0])

    whole = jax.tree.map(concatenate, *({name: b[name] for name in ("outputs", "info")} for b in batches))
    sizes = [float(np.sum(b["info"].valid)) for b in batches]
    total, metrics = 0.0, {}
    for name, objective in spec.objectives.items():
        if objective.whole_validation_set:
            value, own = objective.loss(whole["outputs"][name], whole["info"])
            if objective.pair is not None:
                own = geometry(*objective.pair(whole["outputs"][name], whole["info"])) | own
        else:
            parts = (b["by_batch"][name] for b in batches)
            value, own = jax.tree.map(lambda *x: np.average(x, weights=sizes), *parts)
        total += objective.weight * float(value) if objective.weight and not objective.monitor_only else 0.0
        metrics |= {f"{name}/loss": float(value)} | {f"{name}/{metric}": float(v) for metric, v in own.items()}
    return {"loss": total} | metrics


def diagnose(state: TrainState, constants: Any, batch: Batch, spec: PretrainSpec) -> dict[str, jax.Array]:
    """See `dynamics.measure`."""
    row_variants = spec.inputs.rows

    def losses(encoder: PyTree, gate: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        params = state.params | {"encoder": encoder}
        mask = gate if row_variants else None
        result = forward_with_target(params, state, constants, batch, spec, state.step, mask)
        towers = result.towers
        features = {"image_features": towers.subject_features[0]} if towers.subject_features else {}
        features |= {"table_features": towers.row_features[row_variants[0]].pooled} if towers.row_features else {}
        weighted = {
            name: objective.weight * objective.loss(result.outputs[name], result.info)[0]
            for name, objective in spec.objectives.items()
            if objective.weight
        }
        return weighted, features

    columns = spec.columns if row_variants else ()
    gate = jnp.zeros(batch["values"].shape, jnp.float32)
    return dynamics.measure(losses, state.params["encoder"], gate, columns, batch["valid"])


def pictures(state: TrainState, constants: Any, batch: Batch, spec: PretrainSpec) -> jax.Array:
    """What `draw` needs: the views that the encoder is given, float32 [B,V,K,H,W,C]."""
    return spec.inputs.images(batch, state.step)


def draw(images: np.ndarray, batch: Batch, spec: PretrainSpec) -> dict[str, np.ndarray]:
    """The first slice of each plane of eight subjects, a row of pictures for each view and plane.

    images: as of `pictures`.
    """
    planes = spec.model.image_planes
    first_of_plane = [planes.index(plane) for plane in dict.fromkeys(planes)]
    shown = np.clip(images[:8, :, first_of_plane].mean(-1) * 255, 0, 255).astype(np.uint8)
    rows = [np.concatenate(list(shown[:, view, plane]), axis=1) for view, plane in np.ndindex(*shown.shape[1:3])]
    return {"augmented": np.repeat(np.concatenate(rows, axis=0)[..., None], 3, axis=-1)}
