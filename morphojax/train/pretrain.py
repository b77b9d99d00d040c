"""Contrastive pretraining of an image encoder against table rows (Hager et al., CVPR 2023, arXiv:2303.14080)."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data import pipeline
from morphojax.data.dataset import Dataset
from morphojax.data.table import TableEncoder
from morphojax.models.tabular import TabularMLP
from morphojax.models.towers import ImageTable
from morphojax.objectives.contrastive import info_nce
from morphojax.train import cohort, devices, optimizer, registry, rng
from morphojax.train.run import preprocessing
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step
from morphojax.train.task import Batch, Task


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name: JSON-able})."""
    data = config.data
    devices.check_batch_size(config.batch_size)
    subjects = cohort.select_subjects(
        dataset, split_names=data.splits, subjects=data.subjects, fraction=data.fraction, seed=config.seed
    )
    schema = dataset.schema.select(config.table.groups)
    if config.table.without_leaks_for:
        schema = schema.without_leaks(config.table.without_leaks_for)
    table = TableEncoder.fit(dataset.table.iloc[subjects], schema)
    values, missing = table.encode(dataset.table)
    with_row = np.asarray(~missing.all(axis=1))
    taking_part = subjects[np.isin(subjects, np.flatnonzero(with_row))]
    if len(taking_part) < len(subjects):
        devices.say(f"{len(subjects) - len(taking_part)} of {len(subjects)} subjects have no table row: left out")
    subjects = taking_part

    stream: dict[str, Any] = dict(
        plane=data.plane, values=values, missing=missing, batch_size=config.batch_size, **config.input
    )
    stream |= dict(process_index=jax.process_index(), process_count=jax.process_count())
    train_batches = pipeline.pretraining(
        dataset, subjects=subjects, seed=config.seed, train=True, workers=data.workers, **stream
    )
    held_out = np.flatnonzero((dataset.splits == "val") & with_row) if config.eval_every else []
    held_out_batches = (
        pipeline.pretraining(dataset, subjects=held_out, seed=0, train=False, **stream) if len(held_out) else None
    )
    steps = registry.steps(config, train_batches.examples)
    params = augment.Augmentation(**config.augment)
    augment.check(data.plane, params, config.allow_unanatomical_flips)
    model = build_model(config.model.to_dict(), table.cardinalities)
    opt, learning_rate = optimizer.build(**config.optimizer, steps=steps)
    seed, rate, weight = config.seed, config.table.corruption, config.objective.weight

    def images(batch: Batch, step: jax.Array) -> jax.Array:
        image = batch["image"].astype(jnp.float32) / 255
        return augment.augment(rng.key(seed, "augment", step), image, None, params)[0]

    def init(pretrained: Any) -> TrainState:
        del pretrained
        size, cycle = dataset.manifest.grid.size, config.input.channels == "cycle"
        k, c = (1, len(anatomy.PHASES)) if cycle else (config.input.slices, 1)
        return TrainState.create(
            model.init(
                rng.key(seed, "init"),
                jnp.zeros((2, k, size, size, c)),
                jnp.ones((2, k), bool),
                jnp.asarray(values[:2]),
                jnp.asarray(missing[:2]),
                train=False,
            ),
            opt,
        )

    def loss(params: Any, batch_stats: Any, constants: Any, batch: Batch, step: jax.Array):
        row, gone = augment.corrupt(
            rng.key(seed, "corrupt", step),
            batch["values"],
            batch["missing"],
            constants["values"],
            constants["missing"],
            rate,
        )
        out, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images(batch, step),
            batch["slice_mask"],
            row,
            gone,
            train=True,
            mutable=["batch_stats"],
        )
        value, metrics = info_nce(out["image"], out["table"], out["log_temperature"], weight)
        return value, (metrics, updated["batch_stats"])

    def eval_step(state: TrainState, constants: Any, batch: Batch) -> dict[str, jax.Array]:
        image = batch["image"].astype(jnp.float32) / 255
        rows = (batch["slice_mask"], batch["values"], batch["missing"])
        out: Any = model.apply(state.variables, image, *rows, train=False, mutable=False)
        return {name: out[name] for name in ("image", "table", "log_temperature")} | {"valid": batch["valid"]}

    def summarise(outputs: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Retrieval among all validation subjects at once: harder than within a batch, and the same whatever the batch size."""
        whole = {name: np.concatenate([o[name] for o in outputs]) for name in ("image", "table", "valid")}
        kept = {name: jnp.asarray(whole[name][whole["valid"]]) for name in ("image", "table")}
        value, metrics = info_nce(kept["image"], kept["table"], float(outputs[0]["log_temperature"]), weight)
        return {name: float(v) for name, v in {"loss": value, **metrics}.items()}

    def draw(augmented: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
        rows = np.clip(augmented[:8, 0].mean(-1) * 255, 0, 255).astype(np.uint8)
        return {"augmented": np.repeat(np.concatenate(list(rows), axis=1)[..., None], 3, axis=-1)}

    task = Task(
        init=init,
        pretrained={},
        steps=steps,
        phases=((0, make_train_step(loss, opt)),),
        eval_step=eval_step,
        summarise=summarise,
        constants={"values": values[subjects], "missing": missing[subjects]},
        train_batches=train_batches,
        eval_batches=(lambda: iter(held_out_batches)) if held_out_batches else None,
        best=("loss", False),
        pictures=lambda state, constants, batch: images(batch, state.step),
        pictures_of_validation=False,
        draw=draw,
        learning_rate=learning_rate,
        examples=config.batch_size,
    )
    channels = "frame" if config.input.channels == "slices" else "cycle"
    files = {"preprocessing.json": preprocessing(dataset, data.plane, channels, ()), "table.json": table.to_json()}
    return task, files


def build_model(model: dict[str, Any], cardinalities: tuple[int, ...]) -> ImageTable:
    """The two towers from `config.model` as a dict. Raises ValueError for an unknown encoder or dtype."""
    model = dict(model)
    dtype = registry.dtype(model.pop("dtype"))
    encoder = registry.encoder(model.pop("encoder"), width=model.pop("width"), dtype=dtype)
    table = TabularMLP(cardinalities=cardinalities, dtype=dtype, **model.pop("table"))
    return ImageTable(encoder=encoder, table_encoder=table, dtype=dtype, **model)
