"""The geometry of an image, checked: unit, qform or sform of a NIfTI header, straight axes."""

from pathlib import Path
from typing import Any

import numpy as np

from morphojax.data.sources.base import CohortError

# NIfTI-1, xyzt_units: code of the spatial unit -> millimetres. 0 is unknown, and then millimetres.
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_UNIT = {0: "an unknown unit", 1: "metres", 2: "millimetres", 3: "micrometres"}
_PLAUSIBLE_MM = (0.02, 100.0)  # voxels of cardiac images; a wrong unit is a factor of 1000
_COSINE_NOISE = 1e-5  # rounding of a header's 32-bit numbers
# Half a degree: a correction moves no voxel within 100 mm of the image centre by more than 1 mm.
_COSINE_TOLERANCE = 0.01

QFORM_NOTE = "sform differs from the voxel spacing, so the qform is used"
COSINE_NOTE = "direction cosines not quite orthonormal, made so"
UNPLACED_NOTE = "no qform and no sform in the header, so the orientation is a guess"
UNIT_NOTE = "voxels of exactly 1 x 1 x 1 mm: check that the spacing was not lost"


def affine_mm(path: Path, header: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine of a header, [4, 4] float64, voxel -> mm, RAS+; and notes on what was assumed.

    The axes of the affine are perpendicular.

    header: of nibabel. shape: of the image, X, Y, Z first.

    Raises CohortError for an unknown unit, an implausible spacing, an affine that is singular or
    sheared, or one that contradicts the spacing while there is no qform to use instead.
    """
    code = int(header["xyzt_units"]) & 7
    if code not in _MM:
        raise CohortError(f"{path}: unknown spatial unit {code} in the header; correct xyzt_units")
    spacing = np.asarray(header["pixdim"][1:4], np.float64) * _MM[code]
    affine, notes = _chosen(path, header, spacing, _MM[code])
    if (spacing == 1).all():
        notes += (UNIT_NOTE,)
    affine, more = checked(path, affine, shape, f" (the header counts in {_UNIT[code]})")
    return affine, (*notes, *more)


def checked(
    path: Path, affine: np.ndarray, shape: tuple[int, ...], unit: str = ""
) -> tuple[np.ndarray, tuple[str, ...]]:
    """An affine in mm, of any source, with perpendicular axes; and notes.

    Raises CohortError for an implausible spacing and for a shear. unit: for the message.
    """
    spacing, (low, high) = _lengths(affine), _PLAUSIBLE_MM
    if not ((spacing >= low) & (spacing <= high)).all():
        raise CohortError(
            f"{path}: voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm{unit} "
            f"are not of a heart; correct the unit or the spacing"
        )
    affine, corrected = _straight(path, affine, shape)
    return affine, (COSINE_NOTE,) if corrected else ()


def _chosen(path: Path, header: Any, spacing: np.ndarray, unit: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """The sform, or the qform where the sform contradicts the spacing.

    The lengths of a qform's columns are the spacing by definition. Where every spacing is 1 it may
    have been lost, so that a qform proves nothing. unit: in mm.
    """
    affine = _scaled(header.get_best_affine(), unit)
    if np.isfinite(affine).all() and np.allclose(_lengths(affine), spacing, rtol=0.01, atol=0):
        _check_regular(path, affine)
        placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        return affine, () if placed else (UNPLACED_NOTE,)
    both = int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0
    if both and not (np.asarray(header["pixdim"][1:4]) == 1).all():
        try:
            qform = _scaled(header.get_qform(), unit)
        except ValueError as error:
            raise CohortError(
                f"{path}: neither the sform nor the qform is usable ({error}); correct the header"
            ) from error
        _check_regular(path, qform)
        return qform, (QFORM_NOTE,)
    _check_regular(path, affine)
    raise CohortError(
        f"{path}: the header gives voxels of {np.round(spacing, 4).tolist()} mm, its affine "
        f"{np.round(_lengths(affine), 4).tolist()} mm; correct whichever is wrong"
    )


def _scaled(affine: np.ndarray, unit: float) -> np.ndarray:
    return np.concatenate([np.asarray(affine, np.float64)[:3] * unit, [[0.0, 0.0, 0.0, 1.0]]])


def _lengths(affine: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # to infinity, which is no plausible length
        return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


def _check_regular(path: Path, affine: np.ndarray) -> None:
    if not np.isfinite(affine).all():
        raise CohortError(f"{path}: the affine contains NaN or infinity; correct the header")
    lengths = _lengths(affine)
    # Relative to the voxel volume, so that small voxels are not mistaken for flat ones.
    if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * lengths.prod():
        raise CohortError(f"{path}: the affine is singular; correct the header")


def _straight(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """The affine with orthonormal direction cosines, and whether they were changed.

    Replaces the cosines by the nearest orthonormal ones and keeps the image centre in place.
    Resampling in plane and volumes assume perpendicular axes, so a shear beyond rounding raises
    CohortError.
    """
    spacing = _lengths(affine)
    cosines = affine[:3, :3] / spacing
    deviation = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if deviation <= _COSINE_NOISE:
        return affine, False
    if deviation > _COSINE_TOLERANCE:
        raise CohortError(
            f"{path}: two axes of the affine have a cosine of {deviation:.3g} between them, "
            f"more than {_COSINE_TOLERANCE:g}; resample the image onto perpendicular axes, or correct the header"
        )
    left, _, right = np.linalg.svd(cosines)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * spacing
    centre = (np.array(shape[:3]) - 1) / 2
    straight[:3, 3] += (affine[:3, :3] - straight[:3, :3]) @ centre
    return straight, True
