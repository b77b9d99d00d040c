"""Zips of DICOM files -> images, read without unpacking anything to disk.

A file is unpacked only if its size is plausible. Pixels are decoded on access, so that an unused
series costs only its headers.
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

# The reader checks the values that it uses. pydicom's warnings would quote any value of a header,
# which may identify the subject.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
_MAX_BYTES = 64 * 2**20  # of one image; images of a cine have about 100 kB
_MAX_COMPRESSION_RATIO = 200  # images reach 3
_MAX_TOTAL_BYTES = 512 * 2**20  # of the images of a zip
_MAX_RESCALE = 1e6  # of slope and intercept
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax that pydicom unpacks without a limit
_META_BYTES = 4096  # at the head of a file, which name the transfer syntax


@dataclasses.dataclass(frozen=True)
class Image:
    """One DICOM file: the header, and the pixels on access. `name` is "zip:file", for messages."""

    name: str
    header: pydicom.Dataset

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value of a keyword, or the default. Raises CohortError for one that is damaged."""
        try:
            value = self.header.get(keyword)
        except Exception as error:  # pydicom interprets a value on first access, and raises many types
            raise CohortError(f"{self.name}: {keyword} cannot be read ({error}); download it again") from error
        return default if value is None or value == "" else value

    def text(self, keyword: str) -> str:
        return str(self.get(keyword, ""))

    def numbers(self, keyword: str, count: int) -> np.ndarray | None:
        """float64 [count]; None where the header lacks the keyword.

        Raises CohortError unless the value is `count` finite numbers.
        """
        value = self.get(keyword)
        if value is None:
            return None
        problem = f"{self.name}: {keyword} is {value!r}, must be {count} finite numbers; export it again"
        try:
            numbers = np.atleast_1d(np.asarray(value, np.float64))
        except (TypeError, ValueError) as error:
            raise CohortError(problem) from error
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise CohortError(problem)
        return numbers

    def number(self, keyword: str) -> float | None:
        numbers = self.numbers(keyword, 1)
        return None if numbers is None else float(numbers[0])

    def pixels(self) -> np.ndarray:
        """[X, Y], X along a row of the image, in the units of the scanner.

        Integers where the header does not rescale, else float32. Raises CohortError for a file
        without pixels, in colour, with several frames, in a compression that no installed decoder
        reads, or whose larger numbers are not the brighter ones.
        """
        if self.get("PixelData") is None:
            raise CohortError(f"{self.name}: contains no pixels; download it again")
        if (meaning := self.text("PhotometricInterpretation").strip()) != "MONOCHROME2":
            raise CohortError(
                f"{self.name}: PhotometricInterpretation is {meaning!r}, and only MONOCHROME2 is read, in which larger "
                "numbers are brighter; convert the images or leave the subject out"
            )
        try:
            pixels = self.header.pixel_array
        except (RuntimeError, NotImplementedError, ImportError) as error:
            syntax = getattr(self.header.file_meta.TransferSyntaxUID, "name", "unknown")
            raise CohortError(
                f"{self.name}: pixels in {syntax}, which no installed decoder reads; install morphojax[dicom-compressed]"
            ) from error
        except Exception as error:  # pydicom raises many types; they all mean an unreadable image
            raise CohortError(f"{self.name}: the pixels cannot be read ({error}); download it again") from error
        if pixels.ndim != 2:
            raise CohortError(f"{self.name}: pixels of shape {pixels.shape}, not one grey image; leave the series out")
        slope, intercept = self.number("RescaleSlope"), self.number("RescaleIntercept")
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if not (0 < abs(slope) < _MAX_RESCALE and abs(intercept) < _MAX_RESCALE):
            raise CohortError(
                f"{self.name}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g} are unusable; export it again"
            )
        if slope != 1 or intercept != 0:
            pixels = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        return pixels.T


def read_zip(path: Path, skipped: list[str]) -> Iterator[Image]:
    """The DICOM files (.dcm) of a zip. The names of others, except manifests, go to `skipped`.

    Raises CohortError for a zip that is truncated, encrypted or has paths that lead out of it, and
    for a file of implausible size or that is not DICOM.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (total := sum(info.file_size for info in archive.infolist())) > _MAX_TOTAL_BYTES:
                raise CohortError(f"{path}: would unpack to {total} bytes, too many for a cine; download it again")
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if not info.filename.lower().endswith(".dcm"):
                    if not info.filename.lower().rpartition("/")[2].startswith("manifest"):
                        skipped.append(info.filename)
                    continue
                name = f"{path}:{info.filename}"
                yield Image(name, _parse(name, _bytes(path, archive, info)))
    except CohortError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged directory, sizes and names
        raise CohortError(f"{path}: truncated or corrupt zip ({error}); download it again") from error


def _bytes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    parts = info.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise CohortError(
            f"{path}: the name {info.filename!r} leads out of the zip; UK Biobank's zips have no such name, download it again"
        )
    if info.flag_bits & 1:
        raise CohortError(f"{path}: {info.filename} is encrypted; decrypt the zip")
    if info.file_size > _MAX_BYTES or info.file_size > _MAX_COMPRESSION_RATIO * max(info.compress_size, 1024):
        raise CohortError(
            f"{path}: {info.filename} would unpack to {info.file_size} bytes from {info.compress_size}, too many for an image; "
            "download the zip again"
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
        if _DEFLATED in data[:_META_BYTES]:
            raise ValueError("deflated")
        return pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # pydicom raises many types; they all mean an unreadable file
        raise CohortError(f"{name}: not a readable DICOM file ({error}); download it again") from error
