"""Embeddings of subjects: pooled features of a run's image encoder, averaged over slices."""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from morphojax.data import geometry
from morphojax.data.errors import NamedError
from morphojax.data.input.reading import evenly_spaced
from morphojax.data.input.stream import StreamSpec
from morphojax.data.input.subjects import ImageSpec, subject_stream
from morphojax.data.sources.nifti import Volume
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.records import write_atomically
from morphojax.models.towers import mean_of_slices
from morphojax.tasks import from_config
from morphojax.train import checkpoint
from morphojax.train.run import RunError, read_json
from morphojax.train.transfer import transfer_modules

# What an embedding needs of preprocessing.json.
_IMAGES = {"channels": str, "planes": [str], "grid": {"spacing_mm": float, "size": int}, "percentiles": [float]}
PROJECTOR = """embeddings {{
  tensor_name: "image encoder"
  tensor_path: "{folder}/tensors.tsv"
  metadata_path: "{folder}/metadata.tsv"
}}
"""


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """The image encoder of a run of any task, ready to embed.

    images:    preprocessing.json of the run.
    channels, cycle_frames: as in `ImageSpec`.
    apply:     (image uint8 [B,K,H,W,C], slice_mask bool [B,K], image_planes) -> float32 [B,D],
               deterministic. image_planes names the plane of each of the K images, as
               `ImageSpec.image_planes` does.
    variables: of the whole model: {"params": ..., "batch_stats": ...}.
    """

    run: Path
    checkpoint: Path
    config: Mapping[str, Any]
    images: Mapping[str, Any]
    channels: str
    cycle_frames: int
    apply: Callable[[Any, Any, tuple[str, ...]], Any]
    variables: Mapping[str, Any]

    @property
    def planes(self) -> tuple[str, ...]:
        return tuple(self.images["planes"])


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """subject: indices int [N], sorted; values: float32 [N, D]."""

    subject: np.ndarray
    values: np.ndarray


def load_encoder(path: str | Path, which: str = "last", weights: str = "model") -> ImageEncoder:
    """Loads the image encoder of a run directory, or of a checkpoint folder in one.

    Args:
        which: `last` or `best`, for a run directory.
        weights: `model` or `ema`, as in `checkpoint.load_variables`.

    Raises:
        RunError: a file is missing, or the checkpoint's encoder is not the one that the config
            describes.
        CheckpointError: no usable checkpoint, or no EMA weights in it.
    """
    folder = checkpoint.find(path, which)
    run = folder.parent.parent
    config = read_json(run, "config.json", {"model": object})
    images = read_json(run, "preprocessing.json", _IMAGES)
    try:
        channels = {"frame": "slices", "cycle": "cycle"}[images["channels"]]
        cycle_frames = int(config["input"].get("cycle_frames", 0))  # absent from segmentation runs
        model, size, planes = config["model"], int(images["grid"]["size"]), tuple(images["planes"])
        module = from_config.image_encoder(model, planes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{run}: config.json or preprocessing.json is not as a run writes it ({error!r})") from error
    variables = checkpoint.load_variables(folder, weights=weights)
    channel_count = ImageSpec(planes, channels, cycle_frames=cycle_frames).channel_count
    image = jax.ShapeDtypeStruct((len(planes), size, size, channel_count), jnp.float32)
    expected: Any = jax.eval_shape(lambda key, x: module.init(key, x, train=False), jax.random.key(0), image)
    _, report = transfer_modules(variables, {name: {"encoder": tree} for name, tree in expected.items()})
    if wrong := (*report.absent, *report.differing, *report.adapted):
        raise RunError(f"{folder}: its encoder is not the one of {run / 'config.json'}. First difference: {wrong[0]}")
    own = jax.device_put({name: variables[name]["encoder"] for name in expected})

    @functools.partial(jax.jit, static_argnums=2)
    def apply(image: jax.Array, mask: jax.Array, image_planes: tuple[str, ...]) -> jax.Array:
        slices = image.reshape(-1, *image.shape[2:]).astype(jnp.float32) / 255
        features: Any = from_config.image_encoder(model, image_planes).apply(own, slices, train=False)
        return mean_of_slices(features.pooled.reshape(*mask.shape, -1), mask)

    return ImageEncoder(run, folder, config, images, channels, cycle_frames, apply, variables)


def embed(
    encoder: ImageEncoder,
    dataset: Dataset,
    *,
    subjects: Sequence[int] | np.ndarray | None = None,
    frames: Sequence[str] = ("ED",),
    slices: int = 8,
    batch_size: int = 8,
) -> Embeddings:
    """Embeddings of subjects that have one of the frames.

    Args:
        subjects: indices; None: all subjects.
        frames: the first that a subject has is embedded. An encoder with channels=cycle ignores
            frames and slices: it embeds the phases of the middle slice.
        slices: evenly spaced slices of the frame, over which embeddings are averaged.

    Raises:
        StreamError: no subject has any of the frames.
        RunError: an embedding is NaN.
    """
    n = len(dataset.subjects)
    images = ImageSpec(encoder.planes, encoder.channels, tuple(frames), encoder.cycle_frames, slices)
    stream = subject_stream(
        dataset,
        subjects=np.arange(n) if subjects is None else subjects,
        values=np.zeros((n, 0), np.float32),
        missing=np.zeros((n, 0), bool),
        images=images,
        spec=StreamSpec(batch_size, train=False),
    )
    subject, values = [], []
    for batch in stream:
        kept = batch["valid"]
        subject.append(batch["subject"][kept])
        values.append(np.asarray(encoder.apply(batch["image"], batch["slice_mask"], images.image_planes))[kept])
    stream.close()
    embeddings = Embeddings(np.concatenate(subject), np.concatenate(values))
    if not np.isfinite(embeddings.values).all():
        raise RunError(f"{encoder.checkpoint}: the encoder's output has NaN; choose another with --checkpoint")
    return embeddings


def embed_volume(encoder: ImageEncoder, plane: str, volume: Volume, slices: int = 8) -> np.ndarray:
    """The embedding of a volume of one frame, float32 [D]: the mean over evenly spaced slices.

    The same as that of `embed`, of a subject whose only plane is this one.

    Raises ValueError, naming the volume, where it cannot be placed on the grid; RunError for NaN.
    """
    images = encoder.images
    grid = geometry.Grid.from_json(images["grid"])
    try:
        geometry.check_slices(plane, volume.raw.shape)
        on_grid, _ = geometry.to_input(volume.values(), volume.affine, grid, images["percentiles"])
    except ValueError as error:
        raise NamedError(f"{volume.path}: {error}") from error
    chosen = evenly_spaced(len(on_grid), slices)
    batch = np.zeros((1, slices, grid.size, grid.size, 1), np.uint8)  # one shape, compiled once
    batch[0, : len(chosen), ..., 0] = on_grid[chosen]
    embedding = np.asarray(encoder.apply(batch, np.arange(slices)[None] < len(chosen), (plane,) * slices))[0]
    if not np.isfinite(embedding).all():
        raise RunError(f"{encoder.checkpoint}: the encoder's output has NaN; choose another checkpoint")
    return embedding


def embed_frames(encoder: ImageEncoder, dataset: Dataset, frames: Sequence[str], **settings: Any) -> Embeddings:
    """Embeddings of several frames, concatenated to [N, frames x D], of subjects with all of them.

    settings: as for `embed`. Raises ValueError where no subject has all the frames.
    """
    if encoder.channels == "cycle":
        return embed(encoder, dataset, **settings)
    each = [embed(encoder, dataset, frames=(frame,), **settings) for frame in frames]
    common = each[0].subject
    for embeddings in each[1:]:
        common = np.intersect1d(common, embeddings.subject)
    if not len(common):
        raise ValueError(f"no subject has all of the frames {', '.join(frames)}")
    return Embeddings(common, np.concatenate([e.values[np.isin(e.subject, common)] for e in each], axis=1))


def export(folder: Path, embeddings: Embeddings, dataset: Dataset, columns: Sequence[str] = ()) -> None:
    """Writes embeddings.parquet, and the files for TensorBoard's projector. TensorBoard looks for
    projector_config.pbtxt beside event files: it is written to the parent, the run.

    columns: of the table, to colour by. A subject appears as its index, without id.
    """
    about = pd.DataFrame({"subject": embeddings.subject, "split": dataset.splits[embeddings.subject]})
    for name in columns:
        about[name] = dataset.table[name].to_numpy()[embeddings.subject]
    names = [f"e{i}" for i in range(embeddings.values.shape[1])]
    parquet = io.BytesIO()
    pd.concat([about, pd.DataFrame(embeddings.values, columns=pd.Index(names))], axis=1).to_parquet(
        parquet, index=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "embeddings.parquet", parquet.getvalue())
    tensors = "".join("\t".join(f"{v:.6g}" for v in row) + "\n" for row in embeddings.values)
    write_atomically(folder / "tensors.tsv", tensors.encode())
    write_atomically(folder / "metadata.tsv", about.to_csv(sep="\t", index=False, na_rep="missing").encode())
    write_atomically(folder.parent / "projector_config.pbtxt", PROJECTOR.format(folder=folder.name).encode())
