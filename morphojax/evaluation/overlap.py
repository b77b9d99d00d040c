"""Overlap and surface distances of two masks on the grid of the image, in mm.

Libraries differ in two conventions. Here:

- Empty masks. Both empty: not counted (NaN). One empty: Dice and surface Dice 0, and all distances
  are the diagonal of the image in mm.
- 95th percentile of the Hausdorff distance. `hd95`: percentile of the pooled distances of both
  directions (as medpy). `hd95_directed`: the larger of the two directions' percentiles (as MONAI).
  They can differ by millimetres.

`surface_dice` is the fraction of both surfaces that lies within a tolerance of the other surface
(normalised surface Dice; Nikolov et al. 2021, doi 10.2196/26151). Here every surface voxel counts
once, as in MONAI without subvoxels. The authors weight the surface by its area in mm2 instead.

`assd` is the mean of the pooled distances of both directions (Heimann et al., IEEE TMI 2009; medpy
and MONAI too), not the mean of the two directions' means.

The surface of a mask is its voxels with a face neighbour outside the mask; beyond the image is
outside. A stack of one slice is measured in 2-D, because in 3-D all its voxels are surface.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Spacing = Sequence[float] | np.ndarray

# Tolerance of the surface Dice: above one pixel of cine MRI (at most 1.9 mm in ACDC), so that a
# contour that is off by one pixel counts as right, and below the distance between slices (5 mm or
# more). Nikolov et al. take the variability of observers; use it where you have measured it.
TOLERANCE_MM = 2.0
_ROUNDING_MM = 1e-4  # of distances: headers hold spacings as 32-bit numbers


@dataclasses.dataclass(frozen=True)
class Score:
    """One structure of one stack. Distances in mm; NaN where both masks are empty."""

    dice: float
    surface_dice: float  # at the tolerance
    hd95: float
    hd95_directed: float
    assd: float
    missed: bool  # in the reference, not in the prediction
    spurious: bool  # in the prediction, not in the reference


@dataclasses.dataclass(frozen=True)
class Counts:
    n_valid: int  # scores that are counted, including missed and spurious ones
    n_missed: int
    n_spurious: int


def _masks(reference: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, predicted = np.asarray(reference, bool), np.asarray(predicted, bool)
    if reference.shape != predicted.shape:
        raise ValueError(f"masks must have the same shape, got {reference.shape} and {predicted.shape}")
    return reference, predicted


def _flat(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked masks and spacing, without the slice axis if there is one slice."""
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
    """The diagonal of the image: the distance that is assigned if one mask is empty."""
    return float(np.linalg.norm(np.asarray(shape) * np.asarray(spacing, float)))


def surface_distances(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from the prediction's surface to the reference's, and vice versa.

    Non-empty masks [X, Y, Z] or [X, Y]; spacing in mm per axis. Computed in the bounding box of
    both masks, which holds all surface voxels, so the distances are exact.
    """
    reference, predicted, mm = _flat(reference, predicted, spacing)
    if not reference.any() or not predicted.any():
        raise ValueError("an empty mask has no surface")
    box = ndimage.find_objects((reference | predicted).astype(np.uint8))[0]
    borders = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (reference, predicted)]
    to_reference, to_predicted = (np.asarray(ndimage.distance_transform_edt(~b, sampling=mm)) for b in borders)
    return to_reference[borders[1]], to_predicted[borders[0]]


def _within(distances: np.ndarray, tolerance_mm: float) -> float:
    """The fraction of the distances, in mm, that are not above the tolerance."""
    return float(np.count_nonzero(distances <= tolerance_mm + _ROUNDING_MM) / distances.size)


def check_tolerance(tolerance_mm: float) -> None:
    """Raises ValueError where the tolerance of the surface Dice is not a finite number from 0."""
    if not 0 <= tolerance_mm < float("inf"):
        raise ValueError(f"the tolerance of the surface Dice must be a finite number of mm from 0, got {tolerance_mm}")


def score(reference: np.ndarray, predicted: np.ndarray, spacing: Spacing, tolerance_mm: float = TOLERANCE_MM) -> Score:
    """All scores of one structure.

    Boolean masks [X, Y, Z] (Z = 1: 2-D) or [X, Y]; spacing in mm per axis. `tolerance_mm` is that
    of the surface Dice. Raises ValueError where these do not fit.
    """
    check_tolerance(tolerance_mm)
    reference, predicted, mm = _flat(reference, predicted, spacing)
    in_reference, in_predicted = bool(reference.any()), bool(predicted.any())
    if not (in_reference and in_predicted):
        distance = diagonal_mm(reference.shape, mm) if in_reference or in_predicted else float("nan")
        none = dice(reference, predicted)  # 0; NaN where both are empty
        return Score(none, none, distance, distance, distance, in_reference, in_predicted)
    to_reference, to_predicted = surface_distances(reference, predicted, mm)
    pooled = np.concatenate([to_reference, to_predicted])
    return Score(
        dice=dice(reference, predicted),
        surface_dice=_within(pooled, tolerance_mm),
        hd95=float(np.percentile(pooled, 95)),
        hd95_directed=float(max(np.percentile(to_reference, 95), np.percentile(to_predicted, 95))),
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


def surface_dice(
    reference: np.ndarray, predicted: np.ndarray, spacing: Spacing, tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Fraction of both surfaces within the tolerance of the other one (Nikolov et al. 2021)."""
    return score(reference, predicted, spacing, tolerance_mm).surface_dice


def counts(scores: Sequence[Score]) -> Counts:
    """The number of scores that are counted, and of missed and spurious structures."""
    return Counts(
        n_valid=sum(not np.isnan(s.dice) for s in scores),
        n_missed=sum(s.missed for s in scores),
        n_spurious=sum(s.spurious for s in scores),
    )
