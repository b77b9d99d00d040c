"""Overlap and surface distance of two masks on the image's own grid, in mm.

Libraries disagree in two places, so the conventions are stated:

- Empty masks. Both empty: not counted (NaN). One empty: Dice 0, and every distance is the image's diagonal in mm.
- The 95th percentile of the Hausdorff distance. `hd95` takes it over the distances of both directions pooled (medpy's);
  `hd95_directed` takes it in each direction and keeps the larger (MONAI's). They can differ by millimetres.

`assd` is the mean over the pooled distances of both directions (Heimann et al., IEEE TMI 2009; medpy and MONAI alike),
not the mean of the two directions' means.

The surface of a mask is its voxels with a face-neighbour outside the mask; beyond the image is outside. A stack of one
slice is measured in 2-D: in 3-D every voxel of it would be surface.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Spacing = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Score:
    """One structure of one stack. Distances in mm; NaN where both masks are empty."""

    dice: float
    hd95: float
    hd95_directed: float
    assd: float
    missed: bool  # drawn by the reference, absent from the prediction
    spurious: bool  # predicted where the reference has none


@dataclasses.dataclass(frozen=True)
class Counts:
    n_valid: int  # scores that are counted; the missed and the spurious are among them
    n_missed: int
    n_spurious: int


def _masks(reference: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, predicted = np.asarray(reference, bool), np.asarray(predicted, bool)
    if reference.shape != predicted.shape:
        raise ValueError(f"masks of two shapes cannot be compared: {reference.shape} and {predicted.shape}")
    return reference, predicted


def _flat(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked masks and spacing, the slice axis dropped where it has one slice."""
    reference, predicted = _masks(reference, predicted)
    mm = np.asarray(spacing, float)
    if mm.shape != (reference.ndim,) or not (np.isfinite(mm) & (mm > 0)).all():
        raise ValueError(f"spacing must be {reference.ndim} positive numbers in mm, got {tuple(spacing)}")
    if reference.ndim == 3 and reference.shape[2] == 1:
        return reference[..., 0], predicted[..., 0], mm[:2]
    return reference, predicted, mm


def dice(reference: np.ndarray, predicted: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks of one shape; NaN where both are empty."""
    reference, predicted = _masks(reference, predicted)
    total = np.count_nonzero(reference) + np.count_nonzero(predicted)
    return 2 * np.count_nonzero(reference & predicted) / total if total else float("nan")


def diagonal_mm(shape: Sequence[int], spacing: Spacing) -> float:
    """The diagonal of the image's extent: what a distance to an empty mask is charged."""
    return float(np.linalg.norm(np.asarray(shape) * np.asarray(spacing, float)))


def surface_distances(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from each surface voxel of the prediction to the reference's surface, and the other way round.

    Masks [X, Y, Z] (or [X, Y]) with neither empty; spacing in mm per axis. Only the bounding box of the two is visited:
    every surface voxel lies in it, so the distances are exact.
    """
    reference, predicted, mm = _flat(reference, predicted, spacing)
    if not reference.any() or not predicted.any():
        raise ValueError("an empty mask has no surface")
    box = ndimage.find_objects((reference | predicted).astype(np.uint8))[0]
    borders = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (reference, predicted)]
    to_reference, to_predicted = (np.asarray(ndimage.distance_transform_edt(~b, sampling=mm)) for b in borders)
    return to_reference[borders[1]], to_predicted[borders[0]]


def score(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> Score:
    """All scores of one structure. Boolean masks [X, Y, Z] (Z = 1: 2-D) or [X, Y]; spacing in mm per axis."""
    reference, predicted, mm = _flat(reference, predicted, spacing)
    drawn, found = bool(reference.any()), bool(predicted.any())
    if not (drawn and found):
        distance = diagonal_mm(reference.shape, mm) if drawn or found else float("nan")
        return Score(dice(reference, predicted), distance, distance, distance, drawn, found)
    there, back = surface_distances(reference, predicted, mm)
    pooled = np.concatenate([there, back])
    return Score(
        dice=dice(reference, predicted),
        hd95=float(np.percentile(pooled, 95)),
        hd95_directed=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float(pooled.mean()),
        missed=False,
        spurious=False,
    )


def hd95(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> float:
    """95th percentile of the pooled surface distances, mm (medpy's convention)."""
    return score(reference, predicted, spacing).hd95


def hd95_directed(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> float:
    """The larger of the two directions' 95th percentiles, mm (MONAI's convention)."""
    return score(reference, predicted, spacing).hd95_directed


def assd(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> float:
    """Mean of the pooled surface distances, mm."""
    return score(reference, predicted, spacing).assd


def counts(scores: Sequence[Score]) -> Counts:
    """How many scores stand behind a mean, and how many structures were missed or invented."""
    return Counts(
        n_valid=sum(not np.isnan(s.dice) for s in scores),
        n_missed=sum(s.missed for s in scores),
        n_spurious=sum(s.spurious for s in scores),
    )
