"""Native stack -> training grid, and the exact way back. NumPy only.

A stack is reoriented (in-plane axis order and flips), resampled in plane, and cropped or padded
about the centre of the image. Z never changes, and no label is used. Both directions use separable
linear or nearest interpolation, because reorientation permutes and flips the two in-plane axes but
never rotates them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

# What to say of a stack that `normalise` and `to_grid` make 0.
BLACK = "a black image: nearly all of its voxels are equal, or those inside the crop are black"
_LEFT, _POSTERIOR, _INFERIOR = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0]), np.array([0, 0, -1.0])  # in RAS+


@dataclasses.dataclass(frozen=True)
class Grid:
    """The square in-plane grid of model inputs: `size` x `size` pixels of `spacing_mm`."""

    spacing_mm: float
    size: int

    def __post_init__(self):
        if not (np.isfinite(self.spacing_mm) and self.spacing_mm > 0):
            raise ValueError(f"grid spacing must be a positive number of mm, not {self.spacing_mm}")
        if self.size < 1:
            raise ValueError(f"grid size must be at least 1 pixel, not {self.size}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(**state)


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a native stack maps to the grid. It contains all that the inverse needs.

    shape:  native (X, Y, Z).
    affine: native 4 x 4, voxel -> mm, RAS+.
    axes:   the native axes (0 or 1) that became rows and columns.
    flips:  whether rows and columns run against their native axis.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    axes: tuple[int, int]
    flips: tuple[bool, bool]
    grid: Grid

    @property
    def native_spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y and Z; Z includes the gap between slices."""
        return spacing_of(np.array(self.affine))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        x, y, z = (int(n) for n in state["shape"])
        rows, columns = (int(a) for a in state["axes"])
        flip_rows, flip_columns = (bool(f) for f in state["flips"])
        affine = tuple(tuple(float(v) for v in row) for row in state["affine"])
        return cls((x, y, z), affine, (rows, columns), (flip_rows, flip_columns), Grid.from_json(state["grid"]))


def check_slices(plane: str, shape: Sequence[int]) -> None:
    """Raises ValueError where a long-axis image [X, Y, Z] has more than one slice."""
    if plane != "sax" and shape[2] != 1:
        raise ValueError(
            f"{shape[2]} slices, and an image of {plane} has one; choose the plane that it shows, or, for a cine, "
            "store the axes as X, Y, 1, T"
        )


def place(image: np.ndarray, affine: np.ndarray, grid: Grid) -> Placement:
    """The placement of a stack [X, Y, Z] on the grid, by its shape and affine only.

    Chooses the in-plane axes for rows and columns that are closest to (posterior or inferior,
    left), then flips each to point that way. Raises ValueError where the slices do not lie along
    axis 2.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"shape {image.shape}: a stack must have 3 axes X, Y, Z, none of length 0")
    affine = np.asarray(affine, np.float64)
    spacing = np.array(spacing_of(affine))
    if not (np.isfinite(affine).all() and (spacing > 0).all()):
        raise ValueError(f"voxel spacing {spacing.tolist()} mm: must be positive and finite; correct the affine")
    _check_slice_axis(image.shape, spacing)
    directions = affine[:3, :3] / spacing

    def row_score(axis: int) -> float:
        return float(max(abs(directions[:, axis] @ _POSTERIOR), abs(directions[:, axis] @ _INFERIOR)))

    def column_score(axis: int) -> float:
        return float(abs(directions[:, axis] @ _LEFT))

    # On a tie, columns run along X, the usual order of pixels on disk.
    rows, columns = (0, 1) if row_score(0) + column_score(1) > row_score(1) + column_score(0) + 1e-6 else (1, 0)
    along = [directions[:, rows] @ _POSTERIOR, directions[:, rows] @ _INFERIOR]
    flip_rows = bool(along[int(abs(along[1]) > abs(along[0]) + 1e-6)] < 0)
    flip_columns = bool(directions[:, columns] @ _LEFT < 0)
    x, y, z = image.shape
    frozen = tuple(tuple(row) for row in affine.tolist())
    return Placement((x, y, z), frozen, (rows, columns), (flip_rows, flip_columns), grid)


def to_input(
    image: np.ndarray, affine: np.ndarray, grid: Grid, percentiles: Sequence[float]
) -> tuple[np.ndarray, Placement]:
    """A native stack [X, Y, Z] as a network sees it, uint8 [Z, H, W], and its placement.

    percentiles: low and high, as in `normalise`. Raises ValueError as `place` and `normalise`.
    """
    low, high = percentiles
    placement = place(image, affine, grid)
    return to_grid(normalise(image, low, high), placement, order=1), placement


def to_grid(volume: np.ndarray, placement: Placement, order: int) -> np.ndarray:
    """Native [X, Y, Z] -> [Z, H, W] of the same dtype; integers are rounded.

    Zero outside the native image.

    order: 0 nearest (labels), 1 linear (images).
    """
    if volume.shape != placement.shape:
        raise ValueError(f"volume {volume.shape} does not fit a placement of shape {placement.shape}")
    oriented, sampled = np.transpose(volume, (2, *placement.axes)), []
    for axis, length, native in _in_plane(placement):
        step = placement.grid.spacing_mm / native
        positions = (np.arange(placement.grid.size) - placement.grid.size // 2) * step + length // 2
        positions = length - 1 - positions if placement.flips[axis - 1] else positions
        # Drop the voxels outside the crop before interpolating along the other axis.
        first = max(int(positions.min()), 0)
        oriented = oriented[(slice(None),) * axis + (slice(first, int(positions.max()) + 2),)]
        sampled.append((axis, positions - first))
    for axis, positions in sampled:
        oriented = _interpolate(oriented, positions, axis, order)
    return _as_dtype(oriented, volume.dtype)


def to_native(volume: np.ndarray, placement: Placement, order: int) -> np.ndarray:
    """Grid [Z, H, W] or [Z, H, W, C] -> native [X, Y, Z] or [X, Y, Z, C] of the same dtype.

    Zero outside the crop.

    order: 0 nearest (labels), 1 linear (images, class probabilities). The `argmax` of all-zero
        probabilities is the background.
    """
    size, z = placement.grid.size, placement.shape[2]
    if volume.shape[:3] != (z, size, size) or volume.ndim not in (3, 4):
        raise ValueError(f"volume {volume.shape} does not fit {z} slices on a grid of {size} x {size}")
    out = volume
    for axis, length, native in _in_plane(placement):
        index = np.arange(length)
        index = length - 1 - index if placement.flips[axis - 1] else index
        positions = (index - length // 2) * (native / placement.grid.spacing_mm) + size // 2
        out = _interpolate(out, positions, axis, order)
    source = [0, 0, 0]
    source[2], source[placement.axes[0]], source[placement.axes[1]] = 0, 1, 2
    out = np.transpose(out, (*source, *range(3, volume.ndim)))
    return np.ascontiguousarray(_as_dtype(out, volume.dtype))


def normalise(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Any real array -> uint8; the `low` and `high` percentiles of the stack become 0 and 255.

    Apply it to the native stack, before `to_grid`, so that the result does not depend on the crop.
    A constant stack becomes 0. Raises ValueError where float32, in which images are read, has fewer
    than 256 steps between the percentiles: the grey values would be coarse.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, not {low} and {high}")
    bottom, top = _percentiles(image, low, high)
    if top <= bottom:
        return np.zeros(image.shape, np.uint8)
    if top - bottom < 256 * np.spacing(np.float32(max(abs(bottom), abs(top)))):
        raise ValueError(
            f"grey values from {bottom:.9g} to {top:.9g} lie too close together for 32-bit numbers; subtract "
            f"{bottom:.3g} from every voxel and save the image again"
        )
    order = "F" if image.flags.f_contiguous else "C"
    values = image.ravel(order)
    out = np.empty(values.size, np.uint8)
    for part in _parts(values.size):
        scaled = values[part].astype(np.float32)
        scaled -= np.float32(bottom)
        scaled *= np.float32(255 / (top - bottom))
        scaled += np.float32(0.5)
        out[part] = np.clip(scaled, 0, 255, out=scaled)
    return out.reshape(image.shape, order=order)


def _parts(size: int) -> Iterator[slice]:
    """Slices that cover `size` elements, each small enough for the CPU cache: a third faster."""
    return (slice(first, first + 2**16) for first in range(0, size, 2**16))


def _percentiles(image: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """np.percentile, by counting instead of sorting where all values are whole numbers.

    Scanners store whole numbers, and counting them is several times faster.
    """
    values = image.ravel(order="K")
    first, last = float(values.min()), float(values.max())
    if last - first < 2**16 and max(abs(first), abs(last)) < 2**31:
        counts = _counts(values, int(first), int(last))
        if counts is not None:
            below = np.cumsum(counts)
            ranks = np.array((low, high)) / 100 * (values.size - 1)
            lower, upper = (np.searchsorted(below, f(ranks), side="right") for f in (np.floor, np.ceil))
            bottom, top = first + lower + (upper - lower) * (ranks % 1)
            return float(bottom), float(top)
    bottom, top = np.percentile(values, (low, high))
    return float(bottom), float(top)


def _counts(values: np.ndarray, first: int, last: int) -> np.ndarray | None:
    """How often each of first, ..., last occurs; None where a value is not a whole number."""
    counts = np.zeros(last - first + 1, np.intp)
    for part in _parts(values.size):
        integers = values[part].astype(np.int32)
        if not np.array_equal(integers.astype(values.dtype), values[part]):
            return None
        integers -= first
        counts += np.bincount(integers, minlength=len(counts))
    return counts


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Size of a voxel in mm along X, Y and Z. affine: [4, 4], voxel -> mm."""
    x, y, z = (float(v) for v in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return x, y, z


def _check_slice_axis(shape: Sequence[int], spacing: np.ndarray) -> None:
    """Raises ValueError where the slices seem to lie along X or Y.

    In-plane pixels of cardiac MRI are nearly square, so an elongated pixel, or an axis of one
    voxel, shows that the slices lie along another axis.
    """
    geometry = f"shape {tuple(shape)}, spacing {np.round(spacing, 3).tolist()} mm"
    advice = f"({geometry}); slices must lie along axis 2: transpose the array and its affine"
    for axis in (0, 1):
        if shape[axis] == 1:
            raise ValueError(f"axis {axis} has a single voxel {advice}")
        if spacing[axis] > 2 * spacing[1 - axis]:
            raise ValueError(f"the slices seem to lie along axis {axis} {advice}")


def _in_plane(placement: Placement) -> tuple[tuple[int, int, float], tuple[int, int, float]]:
    """For rows, then columns: (axis of the [Z, H, W] stack, native length, spacing in mm)."""
    rows, columns = placement.axes
    spacing = placement.native_spacing
    return (1, placement.shape[rows], spacing[rows]), (2, placement.shape[columns], spacing[columns])


def _interpolate(volume: np.ndarray, positions: np.ndarray, axis: int, order: int) -> np.ndarray:
    """Samples `axis` at fractional voxel positions.

    Zero beyond the outer faces of the outer voxels, as in ITK.
    """
    length = volume.shape[axis]
    inside = (positions >= -0.5) & (positions <= length - 0.5)
    positions = np.clip(positions, 0, length - 1)
    column = [1] * volume.ndim
    column[axis] = -1
    if order == 0:
        # Halves round up. np.rint would round them to even, and repeat some voxels.
        out = np.take(volume, np.minimum(np.floor(positions + 0.5 + 1e-9).astype(np.intp), length - 1), axis)
    elif order == 1:
        below = np.floor(positions).astype(np.intp)
        weight = (positions - below).astype(np.float32).reshape(column)
        if not weight.any():
            out = np.take(volume, below, axis)
        else:
            lower = np.take(volume, below, axis).astype(np.float32)
            upper = np.take(volume, np.minimum(below + 1, length - 1), axis).astype(np.float32)
            upper -= lower
            upper *= weight
            out = np.add(lower, upper, out=lower)
    else:
        raise ValueError(f"interpolation order must be 0 (nearest) or 1 (linear), not {order}")
    if not inside.all():
        out = np.where(inside.reshape(column), out, np.zeros((), out.dtype))
    return out


def _as_dtype(volume: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if volume.dtype == dtype:
        return volume
    return np.rint(volume).astype(dtype) if np.issubdtype(dtype, np.integer) else volume.astype(dtype)
