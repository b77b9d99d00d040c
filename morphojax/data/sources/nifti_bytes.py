"""The bytes of a NIfTI file, read no further than its header says, as a nibabel image."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from morphojax.data.sources.base import CohortError

MAX_BYTES = 2**29  # of the voxels as stored: a cine of 256 x 256 x 20 x 50 voxels of 64 bits
_MAX_AXES = 7  # of the format
_MAX_OFFSET = 2**24  # where the voxels begin, after the header and its extensions
_MAX_REST = 2**20  # bytes that may follow the voxels
_HEADER_BYTES = 540  # of the longer kind, NIfTI-2


def parse(path: Path) -> nib.Nifti1Image:
    """A NIfTI-1 or -2 file, plain or gzip, in memory.

    Raises CohortError for a file that is not NIfTI, is truncated or damaged, has more voxels than
    MAX_BYTES, or holds much more than its header says; no more memory than that is taken.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if path.suffix == ".gz" and not packed:
                raise CohortError(f"{path}: named .gz but not a gzip file; compress it or rename it")
            data = _read(path, gzip.GzipFile(fileobj=file) if packed else file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CohortError(f"{path}: truncated or corrupt gzip ({error}); copy the file again") from error
    except OSError as error:
        raise CohortError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return _kind(data).from_bytes(data)
    except Exception as error:  # nibabel raises many types; they all mean an unreadable file
        raise CohortError(f"{path}: not a readable NIfTI file ({error}); convert it or copy it again") from error


def _read(path: Path, stream: BinaryIO | gzip.GzipFile) -> bytes:
    """The header, the voxels and what little follows them; a gzip stream to its checksum."""
    head = stream.read(_HEADER_BYTES)
    if len(head) < 4:
        raise CohortError(f"{path}: not a NIfTI file (only {len(head)} bytes)")
    size = _size(path, head)
    data = head + stream.read(max(size - len(head), 0) + _MAX_REST)
    if stream.read(1):
        raise CohortError(f"{path}: holds much more than the {size} bytes that its header says; write the file again")
    return data


def _size(path: Path, head: bytes) -> int:
    """Bytes up to the end of the voxels, by the header. Raises CohortError where it is unusable."""
    kind = _kind(head).header_class
    if kind.sizeof_hdr not in _sizes(head):
        raise CohortError(f"{path}: not a NIfTI file (it does not begin with the length of a header); convert it")
    try:
        # nibabel silently repairs a negative spacing, so check the raw header.
        header: Any = kind(head[: kind.sizeof_hdr], check=False)
        spacing = np.asarray(header["pixdim"][1:4], np.float64)
        axes = int(header["dim"][0])
        if not 1 <= axes <= _MAX_AXES:
            raise ValueError(f"{axes} axes")
        shape = [int(n) for n in header["dim"][1 : 1 + axes]]
        offset = float(header["vox_offset"])
        bits = max(int(header["bitpix"]), 8 * header.get_data_dtype().itemsize)
    except Exception as error:  # as above
        raise CohortError(f"{path}: not a readable NIfTI file ({error}); convert it or copy it again") from error
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise CohortError(f"{path}: voxel spacing {spacing.tolist()}; must be positive and finite, correct the header")
    voxels = math.prod(shape) * bits // 8
    if min(shape, default=0) < 0 or not 0 <= offset <= _MAX_OFFSET:
        raise CohortError(
            f"{path}: shape {tuple(shape)} and voxels at byte {offset:g} are impossible; write the file again"
        )
    if voxels > MAX_BYTES:
        raise CohortError(
            f"{path}: {voxels / 2**30:.1f} GiB of voxels (shape {tuple(shape)}), more than {MAX_BYTES / 2**30:g}; "
            "crop the image, or store it with 16 bits a voxel"
        )
    return int(offset) + voxels


def _kind(data: bytes) -> type[nib.Nifti1Image]:
    return nib.Nifti2Image if nib.Nifti2Header.sizeof_hdr in _sizes(data) else nib.Nifti1Image


def _sizes(data: bytes) -> tuple[int, int]:
    """The length of the header, in either order of bytes."""
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")
