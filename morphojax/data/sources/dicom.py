"""Zips of DICOM files -> series of frames, read without unpacking anything to disk.

A file in a zip is looked at only where its size is plausible. Pixels are decoded when asked for, so that series which nobody wants cost
their headers alone.
"""

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from morphojax.data.sources.base import CohortError

_MOST_BYTES = 64 * 2**20  # of one image; those of a cine have about 100 kB
_MOST_RATIO = 200  # of compression; images reach 3


@dataclasses.dataclass(frozen=True)
class Image:
    """One DICOM file: the header, and the pixels when asked for. `name` is that of the zip and of the file in it."""

    name: str
    header: pydicom.Dataset

    def get(self, keyword: str, default: Any = None) -> Any:
        value = self.header.get(keyword)
        return default if value is None or value == "" else value

    def text(self, keyword: str) -> str:
        return str(self.get(keyword, ""))

    def numbers(self, keyword: str, count: int) -> np.ndarray | None:
        """float64 [count]; None where the header has none. Raises CohortError for anything but so many finite numbers."""
        value = self.get(keyword)
        if value is None:
            return None
        try:
            found = np.atleast_1d(np.asarray(value, np.float64))
        except (TypeError, ValueError) as error:
            raise CohortError(f"{self.name}: {keyword} is {value!r}, no {count} numbers; export it again") from error
        if found.shape != (count,) or not np.isfinite(found).all():
            raise CohortError(f"{self.name}: {keyword} is {value!r}, no {count} numbers; export it again")
        return found

    def number(self, keyword: str) -> float | None:
        found = self.numbers(keyword, 1)
        return None if found is None else float(found[0])

    def pixels(self) -> np.ndarray:
        """[X, Y] (X along a row of the image) in the units of the scanner: integers where the header rescales nothing, else float32.

        Raises CohortError for a file without pixels, in colour, of several frames, or in a compression that nothing here decodes.
        """
        if "PixelData" not in self.header:
            raise CohortError(f"{self.name}: holds no pixels; download it again")
        try:
            found = self.header.pixel_array
        except (RuntimeError, NotImplementedError, ImportError) as error:
            syntax = getattr(self.header.file_meta.TransferSyntaxUID, "name", "unknown")
            raise CohortError(
                f"{self.name}: pixels in {syntax}, which nothing here decodes; install morphojax[dicom-compressed]"
            ) from error
        except Exception as error:  # pydicom raises whatever it trips over; each means the same to the user
            raise CohortError(f"{self.name}: the pixels cannot be read ({error}); download it again") from error
        if found.ndim != 2:
            raise CohortError(f"{self.name}: pixels of shape {found.shape}, not one grey image; leave the series out")
        slope, intercept = self.number("RescaleSlope"), self.number("RescaleIntercept")
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if slope != 1 or intercept != 0:
            found = found.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        return found.T


def read_zip(path: Path) -> Iterator[Image]:
    """The DICOM files of a zip; other files in it (a manifest) are passed over.

    Raises CohortError for a zip that is truncated, encrypted or holds paths out of it, a file of an implausible size, and one that is no
    DICOM file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir() or not info.filename.lower().endswith(".dcm"):
                    continue
                name = f"{path}:{info.filename}"
                yield Image(name, _parse(name, _bytes(path, archive, info)))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, zipfile.LargeZipFile) as error:
        raise CohortError(f"{path}: truncated or corrupt zip ({error}); download it again") from error


def _bytes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    parts = info.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise CohortError(f"{path}: the name {info.filename!r} leads out of the zip; this is no download of UK Biobank")
    if info.flag_bits & 1:
        raise CohortError(f"{path}: {info.filename} is encrypted; decrypt the zip")
    if info.file_size > _MOST_BYTES or info.file_size > _MOST_RATIO * max(info.compress_size, 1024):
        raise CohortError(
            f"{path}: {info.filename} says it unpacks to {info.file_size} bytes from {info.compress_size}; no image does"
        )
    try:
        with archive.open(info) as file:
            data = file.read(info.file_size + 1)
    except zlib.error as error:
        raise CohortError(f"{path}: {info.filename} is corrupt ({error}); download the zip again") from error
    if len(data) != info.file_size:
        raise CohortError(f"{path}: {info.filename} has {len(data)} bytes of {info.file_size}; download the zip again")
    return data


def _parse(name: str, data: bytes) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # pydicom raises whatever it trips over; each means the same to the user
        raise CohortError(f"{name}: not a readable DICOM file ({error}); download it again") from error
