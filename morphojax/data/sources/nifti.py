"""Strict reading of NIfTI: a damaged or ambiguous file raises an error that names it."""

import dataclasses
import gzip
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from morphojax import anatomy
from morphojax.data.sources.base import CohortError, Frame, cine_frames

_AFFINE_TOLERANCE_MM = 1e-2  # labels are often written by another tool, which rounds the affine
_COSINE_NOISE = 1e-5  # rounding of a header's 32-bit numbers
# Half a degree: a correction moves no voxel within 100 mm of the image centre by more than 1 mm.
_COSINE_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Volume:
    """A NIfTI file in memory. `raw`: [X, Y, Z] or [X, Y, Z, T] as stored, not yet scaled."""

    path: Path
    raw: np.ndarray
    slope: float
    intercept: float
    affine: np.ndarray  # [4, 4] float64, RAS+

    @property
    def frames(self) -> int:
        return self.raw.shape[3] if self.raw.ndim == 4 else 1

    def values(self, frame: int = 0) -> np.ndarray:
        """[X, Y, Z] float32: one frame in the units of the scanner."""
        raw = self.raw[..., frame] if self.raw.ndim == 4 else self.raw
        values = raw.astype(np.float32, order="F")
        if self.slope != 1 or self.intercept != 0:
            values = values * np.float32(self.slope) + np.float32(self.intercept)
        return values

    def drawn(self, frame: int = 0) -> bool:
        """Whether a frame of a label contains anything but background."""
        raw = self.raw[..., frame] if self.raw.ndim == 4 else self.raw
        return bool((raw if self.slope == 1 and self.intercept == 0 else self.values(frame)).any())

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

    Raises CohortError where both exist.
    """
    paths = [p for p in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if p.is_file()]
    if len(paths) > 1:
        raise CohortError(f"{paths[0]} and {paths[1].name} both exist; remove one")
    return paths[0] if paths else None


def load(path: Path, ndim: int) -> Volume:
    """Reads a NIfTI-1 or -2 file with axes X, Y, Z (`ndim` 3) or X, Y, Z, T (`ndim` 4).

    Drops trailing axes of length 1; a 2-D image becomes one slice. Raises CohortError for a file
    that is not NIfTI or is truncated, and for unusable voxels, spacing or affine.
    """
    data = _bytes(path)
    image = _parse(path, data)
    header = image.header
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) == 3 and ndim == 4:
        raise CohortError(f"{path}: has shape {shape}, no time axis; must be a cine with axes X, Y, Z, T")
    if len(shape) != ndim or 0 in shape:
        raise CohortError(f"{path}: has shape {image.shape}; must have {ndim} axes, none of length 0")

    affine = np.asarray(image.affine, np.float64)
    _check_geometry(path, affine, np.asarray(header["pixdim"][1:4], np.float64))
    try:
        proxy: Any = image.dataobj
        raw = np.asarray(proxy.get_unscaled()).reshape(shape, order="F")
    except (ValueError, OSError, EOFError) as error:
        raise CohortError(f"{path}: the voxels cannot be read ({error}); copy the file again") from error
    if raw.dtype.kind not in "iuf":
        raise CohortError(f"{path}: voxels of type {raw.dtype} are not grey values; convert the file")
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise CohortError(f"{path}: scaling slope {slope} and intercept {intercept} are unusable; write the file again")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        bad = int(raw.size - np.isfinite(raw).sum())
        raise CohortError(f"{path}: {bad} voxels are NaN or infinite; repair the image or leave the subject out")
    return Volume(path, raw, slope, intercept, affine)


def straighten(volume: Volume) -> tuple[Volume, bool]:
    """The volume with orthonormal direction cosines, and whether they were changed.

    Replaces the cosines by the nearest orthonormal ones and keeps the image centre in place.
    In-plane resampling assumes perpendicular axes, so a shear beyond rounding raises CohortError.
    """
    affine = volume.affine
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    cosines = affine[:3, :3] / spacing
    deviation = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if deviation <= _COSINE_NOISE:
        return volume, False
    if deviation > _COSINE_TOLERANCE:
        raise CohortError(
            f"{volume.path}: two axes of the affine have a cosine of {deviation:.3g} between them, more than {_COSINE_TOLERANCE:g}; "
            "resample the image onto perpendicular axes, or correct the header"
        )
    left, _, right = np.linalg.svd(cosines)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * spacing
    centre = (np.array(volume.raw.shape[:3]) - 1) / 2
    straight[:3, 3] += (affine[:3, :3] - straight[:3, :3]) @ centre
    return dataclasses.replace(volume, affine=straight), True


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
    raw = volume.raw[..., frame] if volume.raw.ndim == 4 else volume.raw
    if volume.slope != 1 or volume.intercept != 0:
        raw = volume.values(frame)
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


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror or error})") from error
    if data[:2] != b"\x1f\x8b":
        if path.suffix == ".gz":
            raise CohortError(f"{path}: named .gz but not a gzip file; compress it or rename it")
        return data
    try:
        return gzip.decompress(data)  # the whole stream: its checksum is verified
    except (OSError, EOFError, zlib.error) as error:
        raise CohortError(f"{path}: truncated or corrupt gzip ({error}); copy the file again") from error


def _parse(path: Path, data: bytes) -> nib.Nifti1Image:
    if len(data) < 4:
        raise CohortError(f"{path}: not a NIfTI file (only {len(data)} bytes)")
    kind = nib.Nifti2Image if 540 in _sizes(data) else nib.Nifti1Image
    try:
        # nibabel silently repairs a negative spacing, so check the raw header first.
        raw = kind.header_class(data[: kind.header_class.sizeof_hdr], check=False)
        spacing = np.asarray(raw["pixdim"][1:4], np.float64)
        image = kind.from_bytes(data)
    except Exception as error:  # nibabel raises many types; they all mean an unreadable file
        raise CohortError(f"{path}: not a readable NIfTI file ({error}); convert it or copy it again") from error
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise CohortError(
            f"{path}: voxel spacing {spacing.tolist()} mm; must be positive and finite, correct the header"
        )
    return image


def _sizes(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")


def _check_geometry(path: Path, affine: np.ndarray, spacing: np.ndarray) -> None:
    if not np.isfinite(affine).all():
        raise CohortError(f"{path}: the affine contains NaN or infinity; correct the header")
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    # Relative to the voxel volume, so that small voxels are not mistaken for flat ones.
    if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * lengths.prod():
        raise CohortError(f"{path}: the affine is singular; correct the header")
    if not np.allclose(lengths, spacing, rtol=0.01):
        raise CohortError(
            f"{path}: the header gives voxels of {np.round(spacing, 4).tolist()} mm, its affine "
            f"{np.round(lengths, 4).tolist()} mm; correct whichever is wrong"
        )
