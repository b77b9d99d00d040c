"""Image-only segmentation: any encoder's pyramid under a U-Net decoder, from scratch or from a pretrained encoder."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from morphojax import anatomy, augment
from morphojax.data.input import pipeline
from morphojax.data.input.stream import Joined
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import figures
from morphojax.models.towers import Segmenter
from morphojax.objectives.segmentation import dice_ce
from morphojax.tasks import cohort, from_config
from morphojax.tasks.segment import conditioning, unlabelled
from morphojax.train import devices, dynamics, optimizer, rng, transfer
from morphojax.train.run import preprocessing
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step
from morphojax.train.task import Batch, StepFunction, Task

WATCHED = 32  # slices on which the encoder's features are compared with those at the start of the run


def build(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Task, dict[str, Any]]:
    """The task of a config, and the files of the run directory that describe its data ({file name: JSON-able})."""
    data = config.data
    devices.check_batch_size(config.batch_size)
    planes = anatomy.parse_planes(data.plane)
    structures = _structures(tuple(data.structures), dataset, planes)
    described = preprocessing(dataset, planes, "frame", structures)
    subjects = cohort.select_subjects(
        dataset, split_names=data.splits, subjects=data.subjects, fraction=data.fraction, seed=config.seed
    )
    stream: dict[str, Any] = dict(planes=planes, structures=structures, batch_size=config.batch_size, **config.input)
    stream |= dict(process_index=jax.process_index(), process_count=jax.process_count())
    train_batches = pipeline.segmentation(
        dataset, subjects=subjects, seed=config.seed, train=True, workers=data.workers, **stream
    )
    held_out = np.setdiff1d(np.flatnonzero(dataset.splits == "val"), subjects) if config.eval_every else []
    held_out_batches = (
        pipeline.segmentation(dataset, subjects=held_out, seed=0, train=False, **stream) if len(held_out) else None
    )
    steps = from_config.steps(config, train_batches.examples)
    params = augment.Augmentation(**config.augment)
    augment.check(planes, params, config.allow_unanatomical_flips)
    beside = _unlabelled(config, dataset, structures, np.union1d(subjects, held_out).astype(int), params, steps)
    if beside is not None:
        train_batches = Joined({"labelled": train_batches, "unlabelled": beside.stream})
    everybody = cohort.select_subjects(dataset, split_names=data.splits, subjects=(), fraction=1.0, seed=config.seed)
    measures = conditioning.build(dataset, config.model.condition, everybody)
    described["measures"] += measures.names if measures is not None else ()
    model = build_model(config.to_dict(), len(structures) + 1, len(described["measures"]))
    decay = config.optimizer.layer_decay
    settings = {name: value for name, value in config.optimizer.items() if name != "layer_decay"}
    scales = (lambda params: optimizer.layer_scales(params, decay=decay)) if decay != 1.0 else None
    opt, learning_rate = optimizer.build(**settings, steps=steps, scales=scales)
    seed, size = config.seed, dataset.manifest.grid.size
    dice_weight = config.objective.dice_weight
    # Canonical id -> class of this model; a structure that it does not know is background.
    class_of = np.zeros(256, np.int32)
    for i, name in enumerate(structures, start=1):
        class_of[anatomy.LABEL_ID[name]] = i

    def fresh() -> Any:
        return model.init(rng.key(seed, "init"), jnp.zeros((2, size, size, 1)), train=False)

    def init(pretrained: Any) -> TrainState:
        return TrainState.create(transfer.merge(fresh(), pretrained), opt)

    def make_loss(train_encoder: bool):
        def loss(params: Any, state: TrainState, constants: Any, batch: Batch):
            image, label = augmented(batch, state.step)
            (logits, measured), updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                image,
                train=True,
                train_encoder=train_encoder,
                mutable=["batch_stats"],
                rngs={"draws": rng.key(seed, "draws", state.step)},
            )
            value, metrics = dice_ce(logits, constants["class_of"][label], batch["annotated"], dice_weight=dice_weight)
            scalars = {name: m for name, m in metrics.items() if m.ndim == 0}
            of, shown = batch["subject"], batch["valid"]
            if beside is not None:
                # As in evaluation, by running statistics: in those of a batch, a stack would be told by itself, as at test time none is.
                stacks = beside.images(batch["unlabelled"], state.step)
                variables, slices = state.variables | {"params": params}, stacks.reshape(-1, *stacks.shape[2:])
                of_stacks, theirs = model.apply(variables, slices, train=False, train_encoder=train_encoder)  # pyrefly: ignore
                of_stacks = of_stacks.reshape(*stacks.shape[:-1], -1)
                others, there = conditioning.slices_of(batch["unlabelled"])
                measured = jnp.concatenate([measured, jnp.asarray(theirs)])
                of, shown = jnp.concatenate([of, others]), jnp.concatenate([shown, there])
                plain = plain_logits(state, batch["unlabelled"]) if beside.pseudo else None
                extra, found = beside.loss(of_stacks, plain, batch["unlabelled"], state.step)
                value, scalars = value + extra, scalars | found
            if measures is not None:
                error, found = measures.loss(measured, of, shown, constants)
                value, scalars = value + config.objective.measures_weight * error, scalars | found
            # A frozen encoder returns the statistics that it was given, so the tree stays whole.
            return value, (scalars, updated["batch_stats"])

        return loss

    def augmented(batch: Batch, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = batch["image"].astype(jnp.float32) / 255
        return augment.augment(rng.key(seed, "augment", step), image, batch["label"], params)

    def plain_logits(state: TrainState, stacks: Batch) -> jax.Array:
        image = stacks["image"]
        logits = predict(state, {"image": image.reshape(-1, *image.shape[2:])})
        return logits.reshape(*image.shape[:-1], -1)

    def eval_step(state: TrainState, constants: Any, batch: Batch) -> dict[str, jax.Array]:
        logits = predict(state, batch)
        value, metrics = dice_ce(
            logits,
            constants["class_of"][batch["label"]],
            batch["annotated"],
            valid=batch["valid"],
            dice_weight=dice_weight,
        )
        sums = {name: metrics[name] for name in ("intersection", "cardinality")}
        return sums | {"loss": value} | {name: batch[name] for name in ("subject", "plane", "valid")}

    def encode(state: TrainState, constants: Any) -> Any:
        image = constants["watched"].astype(jnp.float32) / 255
        return model.apply(state.variables, image, method=lambda module, image: module.encoder(image, False))

    def remember(state: TrainState, constants: Any) -> dict[str, Any]:
        return {"params": jax.tree.map(jnp.copy, state.params), "features": encode(state, constants)}

    def diagnose(state: TrainState, constants: Any, batch: Batch) -> dict[str, jax.Array]:
        start = constants["start"]
        return dynamics.drift(start["params"], state.params, start["features"], encode(state, constants))

    def predict(state: TrainState, batch: Batch) -> Any:
        return model.apply(state.variables, batch["image"].astype(jnp.float32) / 255, train=False)[0]  # pyrefly: ignore

    def summarise(outputs: list[dict[str, np.ndarray]]) -> dict[str, float]:
        return validation_dice(outputs, structures)

    def draw(prediction: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
        to_canonical = np.array([0, *(anatomy.LABEL_ID[s] for s in structures)], np.uint8)
        known = np.isin(batch["label"], to_canonical)
        labels = np.where(known, batch["label"], 0).astype(np.uint8)
        chosen = np.linspace(0, int(np.sum(batch["valid"])) - 1, 6).astype(int)
        rows = [figures.overlay(batch["image"][i, ..., 0], labels[i], to_canonical[prediction[i]]) for i in chosen]
        return {"label_left_prediction_right": np.concatenate(rows, axis=0)}

    def phase(train_encoder: bool) -> StepFunction:
        return make_train_step(make_loss(train_encoder), opt, frozen=() if train_encoder else ("encoder",))

    watching = config.dynamics_every > 0
    constants = {"class_of": class_of, **(measures.constants if measures is not None else {})}
    if watching:
        constants["watched"] = _watched(dataset, held_out if len(held_out) else subjects, stream)
    pretrained = transfer.pretrained(config, described, jax.eval_shape(fresh))
    task = Task(
        init=init,
        pretrained=pretrained,
        steps=steps,
        phases=_phases(config.freeze, config.probe_steps, steps, phase),
        eval_step=eval_step,
        summarise=summarise,
        constants=constants,
        train_batches=train_batches,
        eval_batches=(lambda: iter(held_out_batches)) if held_out_batches else None,
        best=("dice", True),
        pictures=lambda state, constants, batch: predict(state, batch).argmax(-1).astype(jnp.uint8),
        pictures_of_validation=True,
        draw=draw,
        learning_rate=learning_rate,
        examples=config.batch_size,
        diagnose=diagnose if watching else None,
        diagnose_every=config.dynamics_every,
        remember=remember if watching else None,
    )
    return task, {"preprocessing.json": described, "start.json": transfer.digest(pretrained)}


def build_model(config: dict[str, Any], n_classes: int, measures: int) -> Segmenter:
    """The segmenter of a resolved config (as read from `config.json`). Raises ValueError for an unknown encoder, decoder, norm or dtype.

    measures: columns that the decoder is conditioned on.
    """
    model = config["model"]
    return Segmenter(from_config.encoder(model), from_config.decoder(model), n_classes=n_classes, measures=measures)


def validation_dice(outputs: list[dict[str, np.ndarray]], structures: tuple[str, ...]) -> dict[str, float]:
    """Dice per structure on the training grid, voxels pooled over a subject's slices and frames in a plane, then averaged over these.

    A structure that is neither in a view's labels nor in its prediction does not count for it.
    """
    valid = np.concatenate([o["valid"] for o in outputs])
    pairs = np.stack([np.concatenate([o[n] for o in outputs])[valid] for n in ("subject", "plane")], axis=1)
    views, of = np.unique(pairs, axis=0, return_inverse=True)
    sums = {n: np.concatenate([o[n] for o in outputs])[valid] for n in ("intersection", "cardinality")}
    dice = np.full((len(views), len(structures)), np.nan)
    for row in range(len(views)):
        overlap, size = (sums[n][of.ravel() == row].sum(0) for n in ("intersection", "cardinality"))
        dice[row] = np.divide(2 * overlap, size, out=np.full(size.shape, np.nan), where=size > 0)
    means = {f"dice/{s}": float(np.nanmean(d)) for s, d in zip(structures, dice.T, strict=True) if np.isfinite(d).any()}
    overall = float(np.mean(list(means.values()))) if means else 0.0
    return means | {"dice": overall, "loss": float(np.mean([o["loss"] for o in outputs]))}


def _watched(dataset: Dataset, subjects: Any, stream: dict[str, Any]) -> np.ndarray:
    """uint8 [n,H,W,1], n up to WATCHED: labelled slices of these subjects, evenly spaced among all of them. Every process has the same."""
    alone: dict[str, Any] = stream | {"batch_size": 1, "process_index": 0, "process_count": 1}
    slices = pipeline.segmentation(dataset, subjects=subjects, seed=0, train=False, **alone)
    chosen = np.linspace(0, slices.examples - 1, min(WATCHED, slices.examples)).round().astype(int)
    return np.concatenate([slices.at(int(i))["image"] for i in chosen])


def _structures(chosen: tuple[str, ...], dataset: Dataset, planes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the config, else all that somebody annotated in the planes. Raises ValueError where nobody annotated any of them."""
    if unknown := [s for s in chosen if s not in anatomy.STRUCTURES]:
        raise ValueError(
            f"config.data.structures: {', '.join(unknown)} unknown; choose among {', '.join(anatomy.STRUCTURES)}"
        )
    there = set().union(*(dataset.manifest.labelled[plane] for plane in planes))
    if not there.intersection(chosen or there):
        raise ValueError(
            f"config.data.structures: the dataset labels none of them in {', '.join(planes)} "
            f"(it labels {', '.join(sorted(there)) or 'nothing'})"
        )
    return chosen or tuple(s for s in anatomy.STRUCTURES if s in there)


def _unlabelled(config, dataset, structures, taken, augmentation, steps) -> unlabelled.Unlabelled | None:
    settings = config.unlabelled.to_dict()
    if not settings["batch_size"]:
        return None
    if config.data.plane != "sax":
        raise ValueError(
            f"config.unlabelled needs whole stacks, as of config.data.plane=sax: {config.data.plane} has areas, no volumes"
        )
    return unlabelled.build(
        dataset,
        plane=config.data.plane,
        frames=tuple(config.input.frames),
        structures=structures,
        taken=taken,
        splits=tuple(config.data.splits),
        augmentation=augmentation,
        seed=config.seed,
        steps=steps,
        workers=config.data.workers,
        **settings,
    )


def _phases(freeze: str, probe_steps: int, steps: int, phase: Any) -> tuple[tuple[int, StepFunction], ...]:
    if freeze == "none":
        return ((0, phase(True)),)
    if freeze == "encoder":
        return ((0, phase(False)),)
    if freeze == "probe_then_full":
        if not 0 < probe_steps < steps:
            raise ValueError(
                f"config.probe_steps={probe_steps}: give a number of steps between 0 and the run's {steps}"
            )
        return ((0, phase(False)), (probe_steps, phase(True)))
    raise ValueError(f"config.freeze={freeze!r} is unknown: choose none, encoder or probe_then_full")
