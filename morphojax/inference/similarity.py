"""The similarity of images and table rows that a finished pretraining has learned, as functions of
the images and of the encoded rows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morphojax.data.errors import NamedError
from morphojax.data.input.stream import StreamSpec
from morphojax.data.input.subjects import ImageSpec, subject_stream
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import ENCODER_SHAPE, TableEncoder
from morphojax.data.tables.schema import TableError
from morphojax.models.heads import MatchingHead, PairHead
from morphojax.models.tabular import one_hot
from morphojax.objectives.embeddings import l2_normalise
from morphojax.tasks.pretrain.finished import Finished, rebuild
from morphojax.train import checkpoint
from morphojax.train.run import RunError, check_same_images, preprocessing, read_json

Batch = dict[str, np.ndarray]
BATCH = 32  # subjects that are encoded at once


class SimilarityError(NamedError):
    """A run without image-table similarity, or subjects that it cannot be measured on."""


@dataclasses.dataclass(frozen=True)
class Similarity:
    """The two encoders of a run, with the projections of one objective.

    Rows are encoded inputs, float32 [N,D]: for every column its standardised value or a weight per
    class, then a missing flag (0 or 1) per column. Missing values are imputed by the run's table
    encoder. An embedding has unit length, so a similarity is a product of two.

    objective:    its name in `config.objectives`.
    inputs:       of every subject of the dataset, [N,D].
    columns:      name of a column -> positions of its inputs in D.
    groups:       name of a group -> names of its columns.
    baseline:     [D], the mean inputs of the training subjects with a row: of a continuous column
                  the mean after imputation, of a class and of a missing flag its frequency.
    train:        indices of these subjects.
    batch_size:   of the training.
    embed_images: (float32 [B,K,H,W,C] in 0..1, slice_mask bool [B,K]) -> [B,E].
    embed_rows:   [B,D] -> [B,E], differentiable.
    """

    objective: str
    images: ImageSpec
    inputs: np.ndarray
    columns: Mapping[str, np.ndarray]
    groups: Mapping[str, tuple[str, ...]]
    baseline: np.ndarray
    train: np.ndarray
    batch_size: int
    embed_images: Callable[[Any, Any], jax.Array]
    embed_rows: Callable[[Any], jax.Array]


def load_similarity(
    path: str | Path,
    open_dataset: Callable[[Mapping[str, Any]], Dataset],
    *,
    which: str = "last",
    weights: str = "model",
    objective: str = "",
) -> tuple[Similarity, Dataset]:
    """The similarity of a run directory, or of a checkpoint folder in one, and the run's dataset.

    Args:
        open_dataset: config.json of the run -> its dataset.
        which, weights: as in `checkpoint.load_variables`.
        objective: an image-table objective of the run; empty: its only one.

    Raises:
        SimilarityError: the run has no image-table objective, or several and none is chosen; or the
            dataset lacks a column of the run.
        RunError: a damaged run, or a dataset that was prepared differently.
        CheckpointError: no usable checkpoint.
    """
    folder = checkpoint.find(path, which)
    run = folder.parent.parent
    config = read_json(run, "config.json", {"model": object})
    name = _objective(run, config, objective)
    try:
        table = TableEncoder.from_json(read_json(run, "table.json", ENCODER_SHAPE))
    except TableError as error:
        raise RunError(f"{run / 'table.json'}: not as a run writes it ({error}); restore it, or train again") from error
    dataset = open_dataset(config)
    if absent := [column for column in table.schema.names if column not in dataset.table]:
        raise SimilarityError(f"{dataset.root}: its table lacks {', '.join(absent)}, which {run} was trained with")
    try:
        built = rebuild(config, dataset, table)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{run / 'config.json'}: not as a run writes it ({error!r})") from error
    check_same_images(preprocessing(dataset, built.images.planes, built.images.channels, ()), run)
    embed_images, embed_rows = _encoders(built, name, checkpoint.load_variables(folder, weights=weights), folder)
    inputs = encode_inputs(built.table.values, built.table.missing, table.cardinalities)
    names, groups = table.schema.names, table.schema.groups
    similarity = Similarity(
        objective=name,
        images=built.images,
        inputs=inputs,
        columns=positions(names, table.cardinalities),
        groups={group: tuple(c.name for c in table.schema.columns if c.group == group) for group in groups},
        baseline=inputs[built.train].mean(axis=0, dtype=np.float64).astype(np.float32),
        train=built.train,
        batch_size=config["batch_size"],
        embed_images=embed_images,
        embed_rows=embed_rows,
    )
    return similarity, dataset


def _objective(run: Path, config: Mapping[str, Any], wanted: str) -> str:
    """The objective whose similarity is meant. Raises SimilarityError."""
    if config.get("task") != "pretrain":
        raise SimilarityError(f"{run}: is no pretraining (config.task={config.get('task')!r})")
    pairs = ("info_nce", "sigmoid", "nt_xent", "match")
    trained = {name: s for name, s in config.get("objectives", {}).items() if s.get("weight", 1.0)}
    found = [name for name in trained if name in pairs]
    if not found:
        raise SimilarityError(
            f"{run}: its objectives ({', '.join(trained)}) do not compare images with table rows; "
            f"give a run with one of {', '.join(pairs)}"
        )
    if wanted and wanted not in found:
        raise SimilarityError(f"--objective={wanted}: {run} has {', '.join(found)}")
    if not wanted and len(found) > 1:
        raise SimilarityError(f"{run}: has several image-table objectives; choose --objective={' or '.join(found)}")
    return wanted or found[0]


def _encoders(built: Finished, name: str, variables: Mapping[str, Any], folder: Path) -> tuple[Any, Any]:
    """`embed_images` and `embed_rows`. Raises RunError where the weights do not fit the model."""
    spec = built.spec
    head: PairHead | MatchingHead = spec.objectives[name].head
    scope = f"heads_{name}"
    if isinstance(head, MatchingHead):  # its pair is a module of its own here, without the matching
        head = head.pair
        variables = {
            kind: dict(tree) | {scope: tree.get(scope, {}).get("pair", {})} for kind, tree in variables.items()
        }
    rows_encoder: Any = spec.model.table_encoder
    model = spec.model.clone(
        heads={name: head}, decoder=None, image_input="full", table_encoder=rows_encoder.clone(encoded_inputs=True)
    )
    split = sum(built.table.cardinalities)
    no_images = jnp.zeros((1, 1, *spec.image_shape))

    def outputs(images: jax.Array, mask: jax.Array, inputs: jax.Array) -> dict[str, jax.Array]:
        values, missing = inputs[:, :split], inputs[:, split:]
        rows = {head.rows: (values, missing, jnp.zeros_like(missing))}
        negatives = jnp.ones((len(images), len(images)), bool)
        out, _ = model.apply(variables, images, mask, rows, negatives, train=False)
        return {"image": l2_normalise(out[name]["image"]), "table": l2_normalise(out[name]["table"])}

    # The compiler leaves out the encoder whose output is not used.
    def embed_images(images: jax.Array, mask: jax.Array) -> jax.Array:
        inputs = jnp.zeros((len(images), split + len(built.table.cardinalities)))
        return outputs(images[:, None], mask, inputs)["image"]

    def embed_rows(inputs: jax.Array) -> jax.Array:
        images = jnp.broadcast_to(no_images, (len(inputs), *no_images.shape[1:]))
        return outputs(images, jnp.ones((len(inputs), images.shape[2]), bool), inputs)["table"]

    try:
        jax.eval_shape(embed_rows, jax.ShapeDtypeStruct((1, split + len(built.table.cardinalities)), jnp.float32))
    except Exception as error:  # flax has several classes for absent and differing parameters
        line = str(error).splitlines()[0]
        raise RunError(
            f"{folder}: its weights are not those of {folder.parent.parent / 'config.json'} ({line})"
        ) from error
    return jax.jit(embed_images), jax.jit(embed_rows)


def encode_inputs(values: np.ndarray, missing: np.ndarray, cardinalities: Sequence[int]) -> np.ndarray:
    """values, missing [N,F] of `TableEncoder.encode` -> float32 [N,D]; see `Similarity`."""
    encoded = np.asarray(one_hot(jnp.asarray(values), cardinalities))
    return np.concatenate([encoded, missing], axis=1).astype(np.float32)


def positions(names: Sequence[str], cardinalities: Sequence[int]) -> dict[str, np.ndarray]:
    """For every column, the positions of its inputs in D: values or classes, then the flag."""
    ends = np.cumsum(cardinalities)
    return {
        name: np.append(np.arange(ends[i] - cardinalities[i], ends[i]), ends[-1] + i) for i, name in enumerate(names)
    }


def subjects_of(similarity: Similarity, dataset: Dataset, split: str) -> np.ndarray:
    """The subjects of a split with a table row: of `train` those that trained, of others those that
    did not.
    """
    with_row = ~similarity.inputs[:, -len(similarity.columns) :].all(axis=1)
    chosen = np.flatnonzero((dataset.splits == split) & with_row)
    return np.intersect1d(chosen, similarity.train) if split == "train" else np.setdiff1d(chosen, similarity.train)


def batches(similarity: Similarity, dataset: Dataset, subjects: np.ndarray) -> Iterator[Batch]:
    """The images of subjects as on validation: batches of `subject_stream` with `record`, without
    padding. Subjects without the frames are left out. Raises StreamError where none is left.
    """
    n = len(dataset.subjects)
    stream = subject_stream(
        dataset,
        subjects=subjects,
        values=np.zeros((n, 0), np.float32),
        missing=np.zeros((n, 0), bool),
        images=similarity.images,
        spec=StreamSpec(min(BATCH, len(subjects)), train=False),
        records=True,
    )
    for batch in stream:
        yield {key: array[batch["valid"]] for key, array in batch.items()}
    stream.close()


def image_embeddings(similarity: Similarity, dataset: Dataset, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indices int [n], sorted; embeddings [n,E]) of the subjects that have images."""
    found, values = [], []
    for batch in batches(similarity, dataset, subjects):
        found.append(batch["subject"])
        values.append(np.asarray(similarity.embed_images(batch["image"].astype(np.float32) / 255, batch["slice_mask"])))
    return np.concatenate(found), np.concatenate(values)
