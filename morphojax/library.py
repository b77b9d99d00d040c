"""Finished runs from Python: `morphojax.load(run)` segments, measures and embeds arrays in memory.

`docs/library.md` shows it. An array is treated as `morphojax predict` treats a file, by the same
functions of `morphojax/inference`.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np

from morphojax.data.sources import nifti
from morphojax.inference import arrays
from morphojax.inference.arrays import ModelError
from morphojax.inference.embed import ImageEncoder, embed_volume, load_encoder
from morphojax.inference.measures import Segmented, measure_rows
from morphojax.inference.segmenter import Run, load_run
from morphojax.inference.stacks import of_label, segment_volume
from morphojax.train.choices import CHECKPOINTS
from morphojax.train.run import RunError, read_json


class NiftiImage(Protocol):
    """What is used of nibabel's images."""

    @property
    def dataobj(self) -> Any: ...

    @property
    def header(self) -> Any: ...

    @property
    def shape(self) -> Any: ...


Image = np.ndarray | NiftiImage
Mask = np.ndarray


def load(
    run: str | Path, checkpoint: str = "best", weights: str = "model", *, largest_component: bool = True
) -> "Model":
    """Loads a finished run: of a segmentation, or of a pretraining or probe, which can only embed.

    Args:
        run: its directory.
        checkpoint: `best` by validation (the last where none was evaluated), or `last`.
        weights: `model`, or `ema` for their moving average.
        largest_component: masks keep only the largest component of each structure of a stack.

    Raises:
        ModelError: an unknown checkpoint.
        RunError, CheckpointError: a directory that is no run, or has no usable checkpoint. All
            errors are ValueErrors of one line.
    """
    if checkpoint not in CHECKPOINTS:
        raise ModelError(f"checkpoint={checkpoint!r} is unknown: choose {' or '.join(CHECKPOINTS)}")
    directory = Path(run)
    images = read_json(directory, "preprocessing.json", {"planes": [str], "structures": [str]})
    segmenter = None
    if images["structures"]:
        segmenter = load_run(directory, checkpoint, weights, largest_component=largest_component)
    return Model(directory, segmenter, images["planes"], lambda: load_encoder(directory, checkpoint, weights))


class Model:
    """A finished run. Several threads may use one model; `load` makes it.

    An `image` is a NumPy array [X, Y] (one slice), [X, Y, Z] (a stack, slices along Z) or
    [X, Y, Z, T] (a cine) of grey values in any unit, with its affine: [4, 4], voxel -> mm, RAS+. Or
    it is a nibabel NIfTI image, which has its own. A long-axis cine has the axes X, Y, 1, T.

    `plane` is what the images show, one of `planes`; it must be given where the run has several.
    Nothing compares the images with it, unlike in `morphojax predict`.
    """

    def __init__(
        self, directory: Path, segmenter: Run | None, planes: Sequence[str], load_encoder: Callable[[], ImageEncoder]
    ):
        self.directory, self.planes = directory, tuple(planes)
        self._segmenter, self._load_encoder = segmenter, load_encoder
        self._encoder: ImageEncoder | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<morphojax.Model {self.directory}: {', '.join(self.planes)}>"

    @property
    def structures(self) -> tuple[str, ...]:
        """The structures that the run segments; none for a pretraining or probe."""
        return self._segmenter.structures if self._segmenter else ()

    @overload
    def segment(self, image: Image, affine: Any = ..., *, plane: str | None = ...) -> np.ndarray: ...

    @overload
    def segment(self, image: Sequence[Image], affine: Any = ..., *, plane: str | None = ...) -> list[np.ndarray]: ...

    def segment(
        self, image: Image | Sequence[Image], affine: Any = None, *, plane: str | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """Masks: uint8 of the image's shape, 0 for background, `anatomy.LABEL_ID` for structures.

        A list of images gives a list of masks; `affine` is then one for all, or a list of as many.

        Raises:
            ModelError, CohortError: an argument or image that cannot be used.
            RunError: the run is no segmentation, or predicts NaN.
        """
        run, shown = self._segmentation(), self._plane(plane)

        def one(volume: nifti.Volume, shape: tuple[int, ...]) -> np.ndarray:
            labels = [stack.label for stack in segment_volume(run, shown, volume)]
            return np.stack(labels, axis=-1).reshape(shape)

        return arrays.of_each(one, image, affine)

    @overload
    def embed(self, image: Image, affine: Any = ..., *, plane: str | None = ..., slices: int = ...) -> np.ndarray: ...

    @overload
    def embed(
        self, image: Sequence[Image], affine: Any = ..., *, plane: str | None = ..., slices: int = ...
    ) -> list[np.ndarray]: ...

    def embed(
        self, image: Image | Sequence[Image], affine: Any = None, *, plane: str | None = None, slices: int = 8
    ) -> np.ndarray | list[np.ndarray]:
        """The image encoder's pooled features of one frame: float32 [D], the mean over slices.

        A list of images gives a list of vectors, as in `segment`.

        slices: how many, evenly spaced over the stack; all where it has fewer.

        Raises:
            ModelError, CohortError: an argument or image that cannot be used, such as a cine.
            RunError: the run's encoder reads the frames of a cine as channels, or predicts NaN.
        """
        shown, encoder = self._plane(plane), self._image_encoder()
        if slices < 1:
            raise ModelError(f"slices={slices}: at least one is needed")
        if encoder.channels == "cycle":
            raise RunError(f"{self.directory}: its encoder reads frames as channels; `morphojax probe` embeds with it")

        def one(volume: nifti.Volume, shape: tuple[int, ...]) -> np.ndarray:
            if volume.frames > 1:
                raise ModelError(f"{volume.path}: a cine of {volume.frames} frames; embed one of them, image[..., t]")
            return embed_volume(encoder, shown, volume, slices)

        return arrays.of_each(one, image, affine)

    def measures(
        self, masks: Mask | Sequence[Mask], affine: Any, *, plane: str | None = None, heart_rate: float = float("nan")
    ) -> dict[str, Any]:
        """The row of `measures.csv` for one heart, by column: measures with units in their names,
        `quality` and `reasons`.

        Args:
            masks: as `segment` returns them, of canonical ids. A stack [X, Y, Z] or slice [X, Y]
                gives the sizes of its structures. A cine [X, Y, Z, T] gives measures at `ed` and
                `es`, the frames found by volume. A pair (ED, ES) of stacks gives the same measures.
            affine: of the masks, [4, 4], or the spacing [3] of their voxels in mm.
            heart_rate: in beats per minute, for the cardiac output.

        Raises:
            ModelError: an argument that cannot be used.
            RunError: the run is no segmentation.
        """
        run, shown = self._segmentation(), self._plane(plane)
        spacing = arrays.spacing_mm(affine)
        pair = isinstance(masks, list | tuple)
        if pair and len(masks) != 2:
            raise ModelError(f"masks: a list of {len(masks)}; give one mask, or the two of ED and ES")
        named = dict(zip(("masks_ED", "masks_ES"), masks, strict=True)) if pair else {"masks": masks}
        files = []
        for name, mask in named.items():
            frames = arrays.label_frames(name, mask, shown)
            if pair and len(frames) > 1:
                raise ModelError(
                    f"{name}: a cine of {len(frames)} frames in a pair; give one frame at ED and one at ES"
                )
            files.append(Segmented(name, tuple(map(of_label, frames)), spacing, heart_rate))
        (row,) = measure_rows(run, shown, files)
        dropped = ("file", "kind", "ed", "es") if pair else ("file", "kind")
        return {column: value for column, value in row.items() if column not in dropped}

    def _segmentation(self) -> Run:
        if self._segmenter is None:
            raise RunError(f"{self.directory} is no segmentation run, and can only embed; load one of a segment config")
        return self._segmenter

    def _image_encoder(self) -> ImageEncoder:
        """Loaded at the first use, by one thread."""
        with self._lock:
            if self._encoder is None:
                self._encoder = self._load_encoder()
            return self._encoder

    def _plane(self, plane: str | None) -> str:
        if plane is None and len(self.planes) == 1:
            return self.planes[0]
        if plane not in self.planes:
            raise ModelError(f"plane={plane!r}: the run has {', '.join(self.planes)}; give the plane that images show")
        return plane
