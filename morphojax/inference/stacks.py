"""Labels of one stack by a run, with what says whether to trust them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from morphojax.data import geometry
from morphojax.data.errors import NamedError
from morphojax.data.sources.nifti import Volume
from morphojax.evaluation import clinical
from morphojax.inference.segmenter import Run, largest_components, mean_probabilities
from morphojax.train.run import RunError


@dataclasses.dataclass(frozen=True)
class SegmentedStack:
    """The labels of one stack.

    label:   uint8 [X, Y, Z] of canonical ids.
    islands: by structure, the fraction of its voxels outside its largest component, before
        components were removed.
    removed: only the largest component of each structure was kept.
    black:   the image on the grid is black.
    members: by structure, its size (`clinical.size`) in the label of each member of an ensemble;
        empty for a single run.
    """

    label: np.ndarray
    islands: Mapping[str, float]
    removed: bool = False
    black: bool = False
    members: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def spread(self) -> dict[str, float]:
        """Coefficient of variation of each structure's size over the members, in %: 100 times
        their standard deviation (n - 1) divided by their mean. NaN where no member shows the
        structure; empty for a single run.
        """
        columns = {}
        for structure, sizes in self.members.items():
            mean = float(np.mean(sizes))
            columns[f"{structure}_cv_percent"] = 100 * float(np.std(sizes, ddof=1)) / mean if mean else float("nan")
        return columns


def of_label(label: np.ndarray) -> SegmentedStack:
    """A label [X, Y, Z] of canonical ids, from whatever source."""
    return SegmentedStack(label, largest_components(label)[1])


def segment_stack(run: Run, plane: str, image: np.ndarray, affine: np.ndarray) -> SegmentedStack:
    """Segments a native stack [X, Y, Z]. affine: voxel -> mm, RAS+.

    Raises ValueError where the geometry is not that of a stack of slices along Z.
    """
    slices, placement = run.place(image, affine)
    on_grid = run.predict_members(slices)
    label = run.classes(run.to_native(mean_probabilities(on_grid), placement), plane)
    kept, islands = largest_components(label)
    removed, members = run.largest_component, dict[str, tuple[float, ...]]()
    if run.others:
        labels = [run.labels(run.to_native(own, placement), plane) for own in on_grid]
        for structure in run.structures_of(plane):
            sizes = (clinical.size(plane, one, structure, placement.native_spacing)[0] for one in labels)
            members[structure] = tuple(sizes)
    return SegmentedStack(kept if removed else label, islands, removed, not slices.any(), members)


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
