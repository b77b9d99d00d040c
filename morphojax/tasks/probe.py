"""A column of the table, predicted from images alone: the image encoder, the mean over slices and a linear head, trained together."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pandas as pd

from morphojax import anatomy, augment
from morphojax.data.input import pipeline
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import Column, Schema, TableError
from morphojax.evaluation import prediction
from morphojax.models.towers import fill_masked, mean_of_slices
from morphojax.tasks import cohort, from_config
from morphojax.train import checkpoint, devices, lineage, optimizer, rng, transfer, weights
from morphojax.train.run import preprocessing
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step
from morphojax.train.task import Batch, Task

FREEZE = ("none", "encoder")


@dataclasses.dataclass(frozen=True)
class Label:
    """A column of the table as something to predict.

    table:   the encoder of that one column, fitted on the training subjects.
    classes: those that some subject has, in the order of their codes; () for a continuous column.
    """

    table: TableEncoder
    classes: tuple[str, ...]

    @classmethod
    def fit(cls, dataset: Dataset, name: str, subjects: np.ndarray) -> Self:
        """The column `name` by the training `subjects` (indices).

        Raises ValueError, naming the column and the choices, where there is no such column, where it is missing or constant
        among the subjects, and where a class has fewer than two of them.
        """
        columns = {column.name: column for column in dataset.schema.columns}
        choices = f"choose among {', '.join(columns)}"
        if name not in columns:
            raise ValueError(f"label {name!r} is no column of the table of {dataset.root}: {choices}")
        try:
            table = TableEncoder.fit(dataset.table.iloc[subjects], Schema((columns[name],)))
        except TableError as error:
            raise ValueError(f"label {name!r} cannot be learned ({error}): {choices}") from error
        if columns[name].kind == "continuous":
            return cls(table, ())
        whole = cls(table, table.classes(name))
        codes = whole.encode(dataset.table)
        counts = {c: int((codes[subjects] == i).sum()) for i, c in enumerate(whole.classes) if (codes == i).any()}
        if min(counts.values()) < 2:
            raise ValueError(
                f"label {name!r}: every class needs two training subjects, and there are {counts}: "
                f"take more of them (fraction), or {choices}"
            )
        return cls(table, tuple(counts))

    @property
    def column(self) -> Column:
        return self.table.schema.columns[0]

    @property
    def outputs(self) -> int:
        """Of a network that predicts it: one per class, or one."""
        return len(self.classes) or 1

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """Rows of the table -> float64 [N]: the code of the class, or the standardised value; NaN where missing or of another class."""
        values, missing = (x[:, 0] for x in self.table.encode(table))
        target = values.astype(float)
        if self.classes:
            known = self.table.classes(self.column.name)
            code = np.array([self.classes.index(c) if c in self.classes else np.nan for c in known])
            target = code[values.astype(int)]
        return np.where(missing, np.nan, target)

    def in_unit(self, standardised: np.ndarray) -> np.ndarray:
        """Back to the unit of the column."""
        fitted = self.table.fitted[0]
        return np.asarray(standardised, float) * fitted.std + fitted.mean

    def of_network(self, output: np.ndarray) -> np.ndarray:
        """What a network puts out, [N, outputs], -> probabilities [N, classes], or values [N] in the unit of the column."""
        output = np.asarray(output, float)
        if not self.classes:
            return self.in_unit(output[:, 0])
        odds = np.exp(output - output.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def of_target(self, target: np.ndarray) -> np.ndarray:
        """The same of targets: codes stay, values get their unit."""
        return target.astype(int) if self.classes else self.in_unit(target)

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table.to_json(), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(TableEncoder.from_json(state["table"]), tuple(state["classes"]))


def class_weights(target: np.ndarray, classes: int) -> np.ndarray:
    """float32 [max(classes, 1)] that let every class weigh the same, their mean over the subjects being 1; [1] for values."""
    if not classes:
        return np.ones(1, np.float32)
    return (len(target) / (classes * np.bincount(target.astype(int), minlength=classes))).astype(np.float32)


def loss_per_subject(output: jax.Array, target: jax.Array, weights: jax.Array, classes: int) -> jax.Array:
    """float32 [B]: weighted cross-entropy of logits [B, classes], or, with no classes, the squared error of [B, 1]."""
    output = output.astype(jnp.float32)
    if not classes:
        return jnp.square(output[:, 0] - target)
    code = target.astype(jnp.int32)
    return weights[code] * optax.softmax_cross_entropy_with_integer_labels(output, code)


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name: JSON-able})."""
    data = config.data
    devices.check_batch_size(config.batch_size)
    if config.freeze not in FREEZE:
        raise ValueError(f"config.freeze={config.freeze!r} is unknown: choose {' or '.join(FREEZE)}")
    train_encoder = config.freeze == "none"
    subjects = cohort.select_subjects(
        dataset, split_names=data.splits, subjects=data.subjects, fraction=data.fraction, seed=config.seed
    )
    label = Label.fit(dataset, config.label, subjects)
    target = label.encode(dataset.table)
    known = np.isfinite(target)
    if left_out := int((~known[subjects]).sum()):
        devices.say(f"{left_out} of {len(subjects)} subjects have no {config.label}: left out")
    held_out = np.setdiff1d(np.flatnonzero((dataset.splits == "val") & known), subjects) if config.eval_every else []
    subjects = subjects[known[subjects]]
    planes = anatomy.parse_planes(data.plane)
    image_planes = pipeline.image_planes(planes, config.input.channels, config.input.slices)
    stream: dict[str, Any] = dict(planes=planes, batch_size=config.batch_size, **config.input)
    stream |= dict(values=np.where(known, target, 0)[:, None].astype(np.float32), missing=~known[:, None])
    stream |= dict(process_index=jax.process_index(), process_count=jax.process_count())
    train_batches = pipeline.pretraining(
        dataset, subjects=subjects, seed=config.seed, train=True, workers=data.workers, **stream
    )
    held_out_batches = (
        pipeline.pretraining(dataset, subjects=held_out, seed=0, train=False, **stream) if len(held_out) else None
    )
    steps = from_config.steps(config, train_batches.examples)
    params = augment.Augmentation(**config.augment)
    augment.check(planes, params, config.allow_unanatomical_flips)
    encoder = from_config.image_encoder(config.model.to_dict(), image_planes)
    decay = config.optimizer.layer_decay
    settings = {name: value for name, value in config.optimizer.items() if name != "layer_decay"}
    scales = (lambda params: optimizer.layer_scales(params, decay=decay)) if decay != 1.0 else None
    opt, learning_rate = optimizer.build(**settings, steps=steps, scales=scales)
    seed, size, classes = config.seed, dataset.manifest.grid.size, len(label.classes)
    channels = pipeline.count_channels(config.input.channels, config.input.cycle_frames)

    def fresh() -> Any:
        """The head starts at zero, where the first prediction is the mean, or every class equally likely."""
        features, variables = encoder.init_with_output(
            rng.key(seed, "init"), jnp.zeros((2 * len(image_planes), size, size, channels)), train=False
        )
        made = {name: {"encoder": tree} for name, tree in variables.items()}
        made["params"]["head"] = {
            "kernel": jnp.zeros((features.pooled.shape[-1], label.outputs)),
            "bias": jnp.zeros(label.outputs),
        }
        return made

    def init(pretrained: Any) -> TrainState:
        return TrainState.create(transfer.merge(fresh(), pretrained), opt)

    def predict(
        params: Any, batch_stats: Any, image: jax.Array, mask: jax.Array, step: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Output [B, outputs] and the running statistics after it; training where there is a step. Statistics of a frozen encoder stay."""
        train = step is not None
        variables = {"params": params["encoder"], **({"batch_stats": batch_stats["encoder"]} if batch_stats else {})}
        slices = fill_masked(image, mask).reshape(-1, *image.shape[2:])
        features, updated = encoder.apply(
            variables,
            slices,
            train=train,
            mutable=["batch_stats"] if train else [],
            rngs={"draws": rng.key(seed, "draws", step)},
        )
        pooled = mean_of_slices(features.pooled.reshape(*mask.shape, -1), mask)
        pooled = pooled if train_encoder else jax.lax.stop_gradient(pooled)
        after = {"encoder": updated["batch_stats"]} if "batch_stats" in updated else batch_stats
        return pooled @ params["head"]["kernel"] + params["head"]["bias"], after

    def augmented(batch: Batch, step: jax.Array) -> jax.Array:
        image = batch["image"].astype(jnp.float32) / 255
        return augment.augment(rng.key(seed, "augment", step), image, None, params)[0]

    def loss(params: Any, state: TrainState, constants: Any, batch: Batch):
        image, mask = augmented(batch, state.step), batch["slice_mask"]
        output, after = predict(params, state.batch_stats, image, mask, state.step if train_encoder else None)
        each = loss_per_subject(output, batch["values"][:, 0], constants["weights"], classes)
        return each.mean(), ({}, after)

    def eval_step(state: TrainState, constants: Any, batch: Batch) -> dict[str, jax.Array]:
        image, wanted = batch["image"].astype(jnp.float32) / 255, batch["values"][:, 0]
        output, _ = predict(state.params, state.batch_stats, image, batch["slice_mask"])
        each = loss_per_subject(output, wanted, constants["weights"], classes)
        return {"output": output, "target": wanted, "loss": each, "valid": batch["valid"]}

    def summarise(outputs: list[dict[str, np.ndarray]]) -> dict[str, float]:
        whole = {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}
        output, wanted, each = (whole[name][whole["valid"]] for name in ("output", "target", "loss"))
        return {"loss": float(each.mean()), **prediction.measures(label.of_target(wanted), label.of_network(output))}

    def draw(pictures: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
        rows = np.clip(pictures[:8, 0].mean(-1) * 255, 0, 255).astype(np.uint8)
        return {"augmented": np.repeat(np.concatenate(list(rows), axis=1)[..., None], 3, axis=-1)}

    if config.init_from and not weights.is_weights(config.init_from):
        run = checkpoint.find(config.init_from, config.init_checkpoint).parent.parent
        for line in lineage.caveats(run, label.column, dataset):
            devices.say(f"WARNING: {line}")
    described = preprocessing(dataset, planes, "cycle" if channels > 1 else "frame", ())
    task = Task(
        init=init,
        pretrained=transfer.pretrained(config, described, jax.eval_shape(fresh)),
        steps=steps,
        phases=((0, make_train_step(loss, opt, frozen=() if train_encoder else ("encoder",))),),
        eval_step=eval_step,
        summarise=summarise,
        constants={"weights": class_weights(target[subjects], classes)},
        train_batches=train_batches,
        eval_batches=(lambda: iter(held_out_batches)) if held_out_batches else None,
        best=("loss", False),
        pictures=lambda state, constants, batch: augmented(batch, state.step),
        pictures_of_validation=False,
        draw=draw,
        learning_rate=learning_rate,
        examples=config.batch_size,
    )
    return task, {"preprocessing.json": described, "label.json": label.to_json()}
