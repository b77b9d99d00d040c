"""One strict way to read NIfTI: a file that could become a wrong number is an error that names it."""

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
_COSINE_NOISE = 1e-5  # of a header's 32-bit numbers
_COSINE_TOLERANCE = (
    0.01  # half a degree: no voxel within 100 mm of the centre of the image moves by more than a millimetre
)


@dataclasses.dataclass(frozen=True)
class Volume:
    """A NIfTI file in memory: `raw` [X, Y, Z] or [X, Y, Z, T] in the type of the file, to be scaled frame by frame."""

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
        """Whether a frame of a label holds anything but background."""
        raw = self.raw[..., frame] if self.raw.ndim == 4 else self.raw
        return bool((raw if self.slope == 1 and self.intercept == 0 else self.values(frame)).any())

    def closest(self, image: "Volume") -> int:
        """The frame of this cine that a 3-D image is, or is nearest to. Raises CohortError where their shapes differ."""
        if image.raw.shape != self.raw.shape[:3]:
            raise CohortError(f"{image.path}: shape {image.raw.shape} differs from that of {self.path.name}")
        wanted = image.values()
        return int(np.argmin([np.abs(self.values(t) - wanted).mean() for t in range(self.frames)]))


def find(folder: Path, stem: str) -> Path | None:
    """`<stem>.nii.gz` or `<stem>.nii` in the folder; None where there is neither, CohortError where there are both."""
    found = [p for p in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if p.is_file()]
    if len(found) > 1:
        raise CohortError(f"{found[0]} and {found[1].name} are both there; remove one")
    return found[0] if found else None


def load(path: Path, ndim: int) -> Volume:
    """Reads a NIfTI-1 or -2 file of `ndim` axes: X, Y, Z and, if 4, T. Trailing axes of length 1 are dropped, and a
    flat image of X, Y is one slice. Raises CohortError for a file that cannot be read in full, is no NIfTI, or whose
    voxels, spacing or affine are unusable."""
    data = _bytes(path)
    image = _parse(path, data)
    header = image.header
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) == 3 and ndim == 4:
        raise CohortError(f"{path}: has shape {shape}, no time axis; a cine of X, Y, Z, T is needed here")
    if len(shape) != ndim or 0 in shape:
        raise CohortError(f"{path}: has shape {image.shape}; {ndim} filled axes are needed here")

    affine = np.asarray(image.affine, np.float64)
    _check_geometry(path, affine, np.asarray(header["pixdim"][1:4], np.float64))
    try:
        proxy: Any = image.dataobj
        raw = np.asarray(proxy.get_unscaled()).reshape(shape, order="F")
    except (ValueError, OSError, EOFError) as error:
        raise CohortError(f"{path}: the voxels cannot be read ({error}); copy the file again") from error
    if raw.dtype.kind not in "iuf":
        raise CohortError(f"{path}: voxels of type {raw.dtype} are no grey values; convert the file")
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise CohortError(f"{path}: scaling slope {slope} and intercept {intercept} are unusable; write the file again")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        bad = int(raw.size - np.isfinite(raw).sum())
        raise CohortError(f"{path}: {bad} voxels are NaN or infinite; repair the image or leave the subject out")
    return Volume(path, raw, slope, intercept, affine)


def straighten(volume: Volume) -> tuple[Volume, bool]:
    """The volume with orthonormal direction cosines, and whether they had to be made so: to the nearest ones, about the centre of the
    image. What resamples in plane takes the axes for perpendicular, so a true shear raises CohortError."""
    affine = volume.affine
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    cosines = affine[:3, :3] / spacing
    off = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if off <= _COSINE_NOISE:
        return volume, False
    if off > _COSINE_TOLERANCE:
        raise CohortError(
            f"{volume.path}: two axes of the affine have a cosine of {off:.3g} between them, more than {_COSINE_TOLERANCE:g}; "
            "resample the image onto perpendicular axes, or correct the header"
        )
    left, _, right = np.linalg.svd(cosines)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * spacing
    centre = (np.array(volume.raw.shape[:3]) - 1) / 2
    straight[:3, 3] += (affine[:3, :3] - straight[:3, :3]) @ centre
    return dataclasses.replace(volume, affine=straight), True


def save(path: Path, volume: Volume, seconds: float = 0.0) -> None:
    """Writes a volume with its affine; `seconds` from frame to frame of a cine goes into the fourth spacing."""
    image = nib.Nifti1Image(volume.raw, volume.affine)
    image.set_qform(volume.affine, 1)
    image.set_sform(volume.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(volume.slope, volume.intercept)
    if volume.raw.ndim == 4:
        image.header["pixdim"][4] = seconds
    image.to_filename(path)


def canonical_label(volume: Volume, convention: anatomy.Convention, image: Volume, frame: int = 0) -> np.ndarray:
    """[X, Y, Z] uint8 of canonical ids. Raises CohortError where the label lies on another grid than its image, or
    holds values that the convention does not know."""
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
            here = raw == disk
            out[here] = canonical
            known |= here
    if not known.all():
        values = [f"{v:g}" for v in np.unique(raw[~known])[:10]]
        convention_says = ", ".join(f"{disk} {name}" for disk, name in convention.structures.items())
        raise CohortError(
            f"{volume.path}: label values {', '.join(values)} are not in the convention {convention.name} "
            f"({convention_says}); correct the label, or choose the source of its cohort"
        )
    return out


@dataclasses.dataclass(frozen=True)
class Cine(Sequence[Frame]):
    """The frames that `choice` (see `base.cine_frames`) keeps of a cine, scaled and labelled one by one, when asked for."""

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
        # nibabel repairs a negative spacing silently, so the raw header is looked at first.
        raw = kind.header_class(data[: kind.header_class.sizeof_hdr], check=False)
        spacing = np.asarray(raw["pixdim"][1:4], np.float64)
        image = kind.from_bytes(data)
    except Exception as error:  # nibabel raises whatever it trips over; each means the same to the user
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
        raise CohortError(f"{path}: the affine holds NaN or infinity; correct the header")
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    # Relative to the voxel volume, so that small voxels are not taken for a flat one.
    if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * lengths.prod():
        raise CohortError(f"{path}: the affine is singular; correct the header")
    if not np.allclose(lengths, spacing, rtol=0.01):
        raise CohortError(
            f"{path}: the header says voxels of {np.round(spacing, 4).tolist()} mm, its affine "
            f"{np.round(lengths, 4).tolist()} mm; correct whichever is wrong"
        )
