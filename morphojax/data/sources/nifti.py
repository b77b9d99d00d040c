"""Strict reading of NIfTI: a damaged or ambiguous file raises an error that names it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from morphojax import anatomy
from morphojax.data.sources.base import CohortError, Frame, cine_frames
from morphojax.data.sources.nifti_bytes import parse
from morphojax.data.sources.nifti_geometry import affine_mm, checked

_AFFINE_TOLERANCE_MM = 1e-2  # labels are often written by another tool, which rounds the affine
_LABEL_TOLERANCE = 0.1  # of a scaled label value from a whole number, at most
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Volume:
    """A NIfTI file in memory.

    raw:    [X, Y, Z] or [X, Y, Z, T] as stored, not yet scaled.
    affine: [4, 4] float64, voxel -> mm, RAS+; its axes are perpendicular.
    notes:  what the reader assumed about the header, for the user.
    """

    path: Path
    raw: np.ndarray
    slope: float
    intercept: float
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return self.raw.shape[3] if self.raw.ndim == 4 else 1

    @property
    def scaled(self) -> bool:
        return self.slope != 1 or self.intercept != 0

    def stored(self, frame: int = 0) -> np.ndarray:
        """[X, Y, Z]: one frame as stored."""
        return self.raw[..., frame] if self.raw.ndim == 4 else self.raw

    def values(self, frame: int = 0) -> np.ndarray:
        """[X, Y, Z] float32: one frame in the units of the scanner."""
        stored = self.stored(frame)
        if not self.scaled:
            return stored.astype(np.float32, order="F")
        wide = np.float64 if stored.dtype.itemsize > 2 else np.float32  # which the stored numbers may exceed
        return (stored.astype(wide, order="F") * wide(self.slope) + wide(self.intercept)).astype(np.float32)

    def label_values(self, frame: int = 0) -> np.ndarray:
        """[X, Y, Z]: one frame of a label.

        Scaling rounds to multiples of the slope, so a scaled value within half of it (at most 0.1)
        of a whole number is that number.
        """
        if not self.scaled:
            return self.stored(frame)
        values = self.stored(frame).astype(np.float64, order="F") * self.slope + self.intercept
        whole, tolerance = np.rint(values), min(abs(self.slope) / 2 * 1.001, _LABEL_TOLERANCE)
        return np.where(np.abs(values - whole) <= tolerance, whole, values)

    def drawn(self, frame: int = 0) -> bool:
        """Whether a frame of a label contains anything but background."""
        return bool(self.label_values(frame).any())

    def closest(self, image: "Volume") -> int:
        """The frame of this cine with the least mean absolute difference from a 3-D image.

        Raises CohortError where their shapes differ.
        """
        if image.raw.shape != self.raw.shape[:3]:
            raise CohortError(f"{image.path}: shape {image.raw.shape} differs from that of {self.path.name}")
        target = image.values()
        return int(np.argmin([np.abs(self.values(t) - target).mean() for t in range(self.frames)]))


def find(folder: Path, stem: str) -> Path | None:
    """`<stem>.nii.gz` or `<stem>.nii` in the folder; None where neither exists.

    Raises CohortError where both exist, or one in capital letters.
    """
    paths = [p for p in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if p.is_file()]
    if not paths:
        other = [folder / f"{stem}{end}" for end in (".NII.GZ", ".NII", ".nii.GZ", ".NII.gz")]
        for path in (p for p in other if p.is_file()):
            raise CohortError(f"{path}: rename it to end in .nii or .nii.gz")
    if len(paths) > 1:
        raise CohortError(f"{paths[0]} and {paths[1].name} both exist; remove one")
    return paths[0] if paths else None


def load(path: Path, ndim: int) -> Volume:
    """Reads a NIfTI-1 or -2 file with axes X, Y, Z (`ndim` 3) or X, Y, Z, T (`ndim` 4).

    Drops trailing axes of length 1; a 2-D image becomes one slice. Raises CohortError for a file
    that is not NIfTI or is truncated, and for unusable voxels, spacing or affine.
    """
    return from_image(path, parse(path), ndim)


def from_image(path: Path, image: nib.Nifti1Image, ndim: int | None = None) -> Volume:
    """As `load`, from what `nifti_bytes.parse` read, or from an image that was made in memory.

    ndim: None for a cine where the fourth axis is longer than 1, and a stack otherwise.
    """
    shape = _shape(path, tuple(int(n) for n in image.shape), ndim)
    affine, notes = affine_mm(path, image.header, shape)
    proxy: Any = image.dataobj
    if isinstance(proxy, np.ndarray):
        return _checked(Volume(path, proxy.reshape(shape, order="F"), 1.0, 0.0, affine, notes))
    try:
        raw = np.asarray(proxy.get_unscaled()).reshape(shape, order="F")
    except (ValueError, OSError, EOFError) as error:
        raise CohortError(f"{path}: the voxels cannot be read ({error}); copy the file again") from error
    return _checked(Volume(path, raw, float(proxy.slope), float(proxy.inter), affine, notes))


def from_array(name: str, array: np.ndarray, affine: np.ndarray) -> Volume:
    """As `from_image`, from voxels [X, Y], [X, Y, Z] or [X, Y, Z, T] in memory.

    affine: [4, 4], voxel -> mm, RAS+. name: of the array, for errors.
    """
    path = Path(name)
    shape = _shape(path, array.shape, None)
    if affine.shape != (4, 4) or affine.dtype.kind not in "iuf":
        raise CohortError(f"{path}: an affine of shape {affine.shape}; give 4 x 4 numbers, voxel -> mm")
    affine, notes = checked(path, np.asarray(affine, np.float64), shape)
    return _checked(Volume(path, array.reshape(shape, order="F"), 1.0, 0.0, affine, notes))


def load_noting(path: Path, ndim: int, plane: str, warnings: list[str]) -> Volume:
    """As `load`; adds the volume's notes to the warnings of a subject, each once per plane."""
    volume = load(path, ndim)
    warnings += [w for w in (f"{plane}: {note}" for note in volume.notes) if w not in warnings]
    return volume


def _shape(path: Path, shape: tuple[int, ...], ndim: int | None) -> tuple[int, ...]:
    """The shape without trailing axes of length 1, as `load` and `from_image` say."""
    stored = shape
    ndim = ndim or (4 if max(shape[3:], default=1) > 1 else 3)
    while len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) == 3 and ndim == 4:
        raise CohortError(f"{path}: has shape {shape}, no time axis; must be a cine with axes X, Y, Z, T")
    if len(shape) != ndim or 0 in shape:
        raise CohortError(f"{path}: has shape {stored}; must have {ndim} axes, none of length 0")
    return shape


def _checked(volume: Volume) -> Volume:
    """The volume. Raises CohortError for voxels that are no numbers, not finite, or that 32-bit
    floats cannot hold.

    nibabel has refused an intercept that is not finite, and reads a slope that is not finite, or 0,
    as no scaling.
    """
    path, raw, slope, intercept = volume.path, volume.raw, volume.slope, volume.intercept
    if raw.dtype.kind not in "iuf":
        raise CohortError(f"{path}: voxels of type {raw.dtype} are not grey values; convert the file")
    if raw.dtype.kind != "f" and not volume.scaled:
        return volume
    largest = float(max(abs(float(raw.max())), abs(float(raw.min()))))  # NaN where a voxel is
    if not np.isfinite(largest):
        bad = int(raw.size - np.isfinite(raw).sum())
        raise CohortError(f"{path}: {bad} voxels are NaN or infinite; repair the image or leave the subject out")
    if largest * abs(slope) + abs(intercept) > _FLOAT32_MAX:
        raise CohortError(
            f"{path}: values up to {largest * abs(slope) + abs(intercept):.3g} exceed 32-bit numbers; "
            "repair the image or leave the subject out"
        )
    return volume


def save(path: Path, volume: Volume, seconds: float = 0.0) -> None:
    """Writes a volume with its affine; `seconds` per frame of a cine becomes the fourth spacing."""
    image = nib.Nifti1Image(volume.raw, volume.affine)
    image.set_qform(volume.affine, 1)
    image.set_sform(volume.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(volume.slope, volume.intercept)
    if volume.raw.ndim == 4:
        image.header["pixdim"][4] = seconds
    image.to_filename(path)


def canonical_label(volume: Volume, convention: anatomy.Convention, image: Volume, frame: int = 0) -> np.ndarray:
    """[X, Y, Z] uint8 of canonical ids.

    Raises CohortError where the grids of label and image differ, and for a value outside the
    convention.
    """
    if volume.raw.shape[:3] != image.raw.shape[:3]:
        raise CohortError(
            f"{volume.path}: label of shape {volume.raw.shape[:3]} on an image of shape {image.raw.shape[:3]} "
            f"({image.path.name}); export the label again on the grid of the image"
        )
    if not np.allclose(volume.affine, image.affine, atol=_AFFINE_TOLERANCE_MM):
        raise CohortError(
            f"{volume.path}: the affine differs from that of {image.path.name} by up to "
            f"{np.abs(volume.affine - image.affine).max():.3g}; export the label again on the grid of the image"
        )
    raw = volume.label_values(frame)
    mapping = convention.to_canonical()
    out = np.zeros(raw.shape, np.uint8, order="F")
    known = raw == anatomy.BACKGROUND
    for disk, canonical in mapping.items():
        if disk != anatomy.BACKGROUND:
            mask = raw == disk
            out[mask] = canonical
            known |= mask
    if not known.all():
        values = [f"{v:g}" for v in np.unique(raw[~known])[:10]]
        allowed = ", ".join(f"{disk} {name}" for disk, name in convention.structures.items())
        raise CohortError(
            f"{volume.path}: label values {', '.join(values)} are not in the convention {convention.name} "
            f"({allowed}); correct the label, or choose the source of its cohort"
        )
    return out


@dataclasses.dataclass(frozen=True)
class CineFrames(Sequence[Frame]):
    """The frames that `choice` (`base.cine_frames`) keeps of a cine; made on access."""

    volume: Volume
    choice: str
    label: Callable[[int], np.ndarray | None]  # frame number -> [X, Y, Z] canonical, or None

    @property
    def numbers(self) -> tuple[int, ...]:
        return cine_frames(self.choice, self.volume.frames)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: Any) -> Any:
        number = self.numbers[i]
        name, image = anatomy.cine_phase(number), self.volume.values(number)
        return Frame(name, image, self.label(number), self.volume.affine, "number")
