"""Labels of one stack by a run, with what says whether to trust them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from morphojax.data import geometry
from morphojax.data.errors import NamedError
from morphojax.data.sources.nifti import Volume
from morphojax.inference.segmenter import Run, largest_components
from morphojax.train.run import RunError


@dataclasses.dataclass(frozen=True)
class SegmentedStack:
    """The labels of one stack.

    label:   uint8 [X, Y, Z] of canonical ids.
    islands: by structure, the fraction of its voxels outside its largest component, before
        components were removed.
    removed: only the largest component of each structure was kept.
    black:   the image on the grid is black.
    """

    label: np.ndarray
    islands: Mapping[str, float]
    removed: bool = False
    black: bool = False


def of_label(label: np.ndarray) -> SegmentedStack:
    """A label [X, Y, Z] of canonical ids, from whatever source."""
    return SegmentedStack(label, largest_components(label)[1])


def segment_stack(run: Run, plane: str, image: np.ndarray, affine: np.ndarray) -> SegmentedStack:
    """Segments a native stack [X, Y, Z]. affine: voxel -> mm, RAS+.

    Raises ValueError where the geometry is not that of a stack of slices along Z.
    """
    slices, placement = run.place(image, affine)
    label = run.classes(run.to_native(run.predict_grid(slices), placement), plane)
    kept, islands = largest_components(label)
    removed = run.largest_component
    return SegmentedStack(kept if removed else label, islands, removed, not slices.any())


def segment_volume(run: Run, plane: str, volume: Volume) -> tuple[SegmentedStack, ...]:
    """Segments every frame of a volume.

    Raises ValueError, naming the volume, where it cannot be segmented; RunError where the run
    cannot be used.
    """
    try:
        geometry.check_slices(plane, volume.raw.shape)
        return tuple(segment_stack(run, plane, volume.values(t), volume.affine) for t in range(volume.frames))
    except RunError:  # an error of the run, not of the volume
        raise
    except ValueError as error:
        raise NamedError(f"{volume.path}: {error}") from error
