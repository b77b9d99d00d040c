"""Pretraining of an image encoder: any sum of objectives, with table rows or without (`terms`)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input import pipeline
from morphojax.data.store.dataset import Dataset
from morphojax.models.pretrainer import Pretrainer
from morphojax.tasks import cohort, from_config
from morphojax.tasks.pretrain import rows
from morphojax.tasks.pretrain.inputs import Inputs
from morphojax.tasks.pretrain.objectives import Context, Objective
from morphojax.tasks.pretrain.objectives import build as build_terms
from morphojax.train import devices, dynamics, optimizer, rng, transfer
from morphojax.train.run import preprocessing
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step
from morphojax.train.task import Batch, Task


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name: JSON-able})."""
    data, seed = config.data, config.seed
    devices.check_batch_size(config.batch_size)
    if config.batch_size < 2:
        raise ValueError(
            f"config.batch_size={config.batch_size}: a subject alone has nobody to be told from; give at least 2"
        )
    subjects = cohort.select_subjects(
        dataset, split_names=data.splits, subjects=data.subjects, fraction=data.fraction, seed=seed
    )
    table = rows.read(dataset, subjects, seed=seed, **config.table)
    _check_model(config.model.to_dict())
    planes, cycle = anatomy.parse_planes(data.plane), config.input.channels == "cycle"
    image_planes = pipeline.image_planes(planes, config.input.channels, config.input.slices)
    k, c = len(image_planes), pipeline.count_channels(config.input.channels, config.input.cycle_frames)
    encoder, table_encoder, decoder = towers(config.model.to_dict(), table.cardinalities, image_planes)
    context = Context(
        schema=table.schema,
        cardinalities=table.cardinalities,
        classes=table.classes,
        table_tokens=config.model.table.encoder == "transformer",
        patch=from_config.patch(encoder),
        channels=c,
        image_planes=image_planes,
        dtype=from_config.dtype(config.model.dtype),
    )
    terms = build_terms(config.objectives.to_dict(), context)
    against_table = any(t.table for t in terms.values())
    if against_table:
        subjects = table.with_rows(subjects)

    stream: dict[str, Any] = dict(
        planes=planes, values=table.values, missing=table.missing, batch_size=config.batch_size, **config.input
    )
    stream |= dict(process_index=jax.process_index(), process_count=jax.process_count())
    train_batches = pipeline.pretraining(
        dataset, subjects=subjects, seed=seed, train=True, workers=data.workers, **stream
    )
    held_out = (
        np.setdiff1d(np.flatnonzero(dataset.splits == "val"), subjects) if config.eval_every else np.zeros(0, int)
    )
    if against_table:
        held_out = table.with_rows(held_out, say=False)
    held_out_batches = (
        pipeline.pretraining(dataset, subjects=held_out, seed=0, train=False, **stream) if len(held_out) else None
    )
    steps = from_config.steps(config, train_batches.examples)
    params = augment.Augmentation(**config.augment)
    augment.check(planes, params, config.allow_unanatomical_flips)
    inputs = Inputs(
        seed=seed,
        views=max(1, *(t.views for t in terms.values())),
        aligned=any(t.aligned for t in terms.values()),
        rows=tuple(sorted({name for t in terms.values() for name in t.rows})),
        augmentation=params,
        corruption_fraction=config.table.corruption_fraction,
        mask_fraction=config.table.mask_fraction,
    )
    inputs.check(len(table.cardinalities))
    model = Pretrainer(
        encoder=encoder,
        heads={name: term.head for name, term in terms.items()},
        table_encoder=table_encoder if inputs.rows else None,
        decoder=decoder if any(t.decoder for t in terms.values()) else None,
        image_planes=image_planes,
        pooling=config.model.pooling,
        image_input=_image_input(terms),
        patch_mask_fraction=config.model.patch_mask_fraction,
        train_encoder=_trains_encoder(config),
    )
    averaging = next((t.momentum for t in terms.values() if t.momentum), None)
    momentum = None if averaging is None else _momentum(averaging, steps, config.optimizer.accumulate)
    opt, learning_rate = optimizer.build(**config.optimizer, steps=steps)

    def fresh() -> Any:
        size, f = dataset.manifest.grid.size, len(table.cardinalities)
        rows = {name: (jnp.zeros((2, f)), jnp.zeros((2, f), bool), jnp.zeros((2, f))) for name in inputs.rows}
        images, mask = jnp.zeros((2, inputs.views, k, size, size, c)), jnp.ones((2, k), bool)
        keys = {"params": rng.key(seed, "init"), "draws": rng.key(seed, "draws")}
        return model.init(keys, images, mask, rows, jnp.ones((2, 2), bool), train=False)

    def forward(params: Any, batch_stats: Any, constants: Any, batch: Batch, step: Any, train: bool, gate: Any = None):
        """All heads' arrays, the info, the new running statistics, and what the towers saw."""
        rows, withheld = inputs.table(batch, constants, step)
        if gate is not None:
            rows = {name: (v, m, h + gate) for name, (v, m, h) in rows.items()}
        (out, seen), updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs.images(batch, step),
            batch["slice_mask"],
            rows,
            inputs.negatives(batch),
            train=train,
            mutable=["batch_stats"],
            rngs={"draws": rng.key(seed, "draws", step)},
        )
        return out, inputs.info(batch, constants, withheld), updated["batch_stats"], seen

    def outputs(params: Any, state: TrainState, constants: Any, batch: Batch, step: Any, gate: Any = None):
        """As `forward`, training where there is a step; the heads of averaged terms have the average's arrays under `target`."""
        out, info, stats, seen = forward(params, state.batch_stats, constants, batch, step, step is not None, gate)
        if averaging is not None:
            # By the batch's statistics, on validation too: the running ones are those of other parameters.
            slow = jax.lax.stop_gradient(forward(state.averaged, state.batch_stats, constants, batch, step, True)[0])
            out = {n: o | ({"target": slow[n]} if terms[n].momentum else {}) for n, o in out.items()}
        return out, info, stats, seen

    def loss(params: Any, state: TrainState, constants: Any, batch: Batch):
        out, info, stats, _ = outputs(params, state, constants, batch, state.step)
        total, metrics = weighted(terms, out, info)
        return total, (metrics, stats)

    def eval_step(state: TrainState, constants: Any, batch: Batch) -> dict[str, Any]:
        out, info, _, _ = outputs(state.params, state, constants, batch, None)
        by_batch = {n: terms[n].loss(out[n], info) for n in terms if not terms[n].whole}
        return {"out": {n: out[n] for n in terms if terms[n].whole}, "info": info, "by_batch": by_batch}

    def diagnose(state: TrainState, constants: Any, batch: Batch) -> dict[str, jax.Array]:
        def losses(encoder: Any, gate: jax.Array):
            params = state.params | {"encoder": encoder}
            out, info, _, seen = outputs(params, state, constants, batch, state.step, gate if inputs.rows else None)
            features = {"image_features": seen.subject_features[0]} if seen.subject_features else {}
            features |= {"table_features": seen.row_features[inputs.rows[0]].pooled} if seen.row_features else {}
            return {n: t.weight * t.loss(out[n], info)[0] for n, t in terms.items() if t.weight}, features

        columns = table.schema.names if inputs.rows else ()
        gate = jnp.zeros(batch["values"].shape, jnp.float32)
        return dynamics.measure(losses, state.params["encoder"], gate, columns, batch["valid"])

    def draw(images: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
        """The first slice of each plane of eight subjects; a row of pictures for each view and plane."""
        shown = np.clip(images[:8, :, [image_planes.index(p) for p in planes]].mean(-1) * 255, 0, 255).astype(np.uint8)
        rows = [np.concatenate(list(shown[:, v, p]), axis=1) for v, p in np.ndindex(*shown.shape[1:3])]
        return {"augmented": np.repeat(np.concatenate(rows, axis=0)[..., None], 3, axis=-1)}

    described = preprocessing(dataset, planes, "cycle" if cycle else "frame", ())
    task = Task(
        init=lambda taken: TrainState.create(transfer.merge(fresh(), taken), opt, averaged=averaging is not None),
        pretrained=transfer.pretrained(config, described, jax.eval_shape(fresh)),
        steps=steps,
        phases=((0, make_train_step(loss, opt, _frozen(model), momentum)),),
        eval_step=eval_step,
        summarise=lambda gathered: summarise(terms, gathered),
        diagnose=diagnose if config.dynamics_every else None,
        diagnose_every=config.dynamics_every,
        constants={"values": table.values[subjects], "missing": table.missing[subjects], "label": table.label},
        train_batches=train_batches,
        eval_batches=(lambda: iter(held_out_batches)) if held_out_batches else None,
        best=("loss", False),
        pictures=lambda state, constants, batch: inputs.images(batch, state.step),
        pictures_of_validation=False,
        draw=draw,
        learning_rate=learning_rate,
        examples=config.batch_size,
    )
    return task, {"preprocessing.json": described, "table.json": table.to_json()}


def towers(
    model: dict[str, Any], cardinalities: tuple[int, ...], image_planes: tuple[str, ...]
) -> tuple[Any, Any, Any]:
    """Image encoder, table encoder and decoder of `config.model` as a dict. Raises ValueError for an unknown name."""
    dtype = from_config.dtype(model["dtype"])
    settings = dict(model["table"])
    name = settings.pop("encoder")
    table_encoder = from_config.table_encoder(name, cardinalities=cardinalities, dtype=dtype, **settings.get(name, {}))
    return from_config.image_encoder(model, image_planes), table_encoder, from_config.decoder(model)


def weighted(terms: dict[str, Objective], out: Any, info: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of the terms' losses, and their metrics as `<term>/<metric>`."""
    total, metrics = jnp.float32(0.0), {}
    for name, term in terms.items():
        value, found = term.loss(out[name], info)
        total += term.weight * value if term.weight else 0.0
        metrics |= {f"{name}/loss": value} | {f"{name}/{metric}": v for metric, v in found.items()}
    return total, metrics


def summarise(terms: dict[str, Objective], gathered: list[dict[str, Any]]) -> dict[str, float]:
    """Each term's loss and metrics on the whole validation set at once: harder for a contrast than within a batch, and, where nothing
    is drawn, the same whatever the batch size. Terms whose arrays are too many for that: the mean over batches, by their number of
    subjects. `loss`, by which the best checkpoint is chosen, leaves out what is only read along."""

    def whole(*parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts) if np.ndim(parts[0]) else parts[0]

    together = jax.tree.map(lambda *x: jnp.asarray(whole(*x)), *({n: g[n] for n in ("out", "info")} for g in gathered))
    sizes = [float(np.sum(g["info"].valid)) for g in gathered]
    total, metrics = 0.0, {}
    for name, term in terms.items():
        if term.whole:
            value, found = term.loss(together["out"][name], together["info"])
        else:
            value, found = jax.tree.map(
                lambda *x: np.average(x, weights=sizes), *(g["by_batch"][name] for g in gathered)
            )
        total += term.weight * float(value) if term.weight and not term.monitor_only else 0.0
        metrics |= {f"{name}/loss": float(value)} | {f"{name}/{metric}": float(v) for metric, v in found.items()}
    return {"loss": total} | metrics


def _image_input(terms: dict[str, Objective]) -> Literal["full", "masked", "both"]:
    """Full images, masked ones or both, as the objectives need: no unused forward pass."""
    masked, full = (any(wanted) for wanted in zip(*((t.parts, t.views > 0) for t in terms.values()), strict=True))
    return "both" if masked and full else "masked" if masked else "full"


def _momentum(averaging: Any, steps: int, accumulate: int) -> Any:
    """Step -> what the average keeps of itself: all of it while gradients are being accumulated and no parameter moves."""
    return lambda step: jnp.where((step + 1) % accumulate == 0, averaging(step, steps), 1.0)


def _check_model(model: dict[str, Any]) -> None:
    """What a module would refuse only when it is traced, after the run directory has been made."""
    if model["pooling"] not in ("mean", "attention"):
        raise ValueError(f"config.model.pooling={model['pooling']!r} is unknown: choose mean or attention")
    if not 0 < model["patch_mask_fraction"] < 1:
        raise ValueError(
            f"config.model.patch_mask_fraction={model['patch_mask_fraction']}: give a share between 0 and 1"
        )


def _trains_encoder(config: ml_collections.ConfigDict) -> bool:
    if config.freeze not in ("none", "encoder"):
        raise ValueError(f"config.freeze={config.freeze!r} is unknown: choose none or encoder")
    return config.freeze == "none"


def _frozen(model: Pretrainer) -> tuple[str, ...]:
    return () if model.train_encoder else ("encoder",)
