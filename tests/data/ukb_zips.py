"""UK Biobank-like zips of DICOM files, written from cines [X,Y,Z,T] and affines."""

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

OBLIQUE = np.array(
    [[-1.4, 0.3, 5.0, 60.0], [0.4, 1.35, 4.0, -50.0], [-0.35, 0.5, -7.6, 80.0], [0, 0, 0, 1]], np.float64
)
MANIFEST = "filename,series discription,date\n{},CINE,Aug 30, 2015\n"  # the comma of the date is not quoted


def oblique(spacing: float = 1.5, gap: float = 10.0) -> np.ndarray:
    """A right-handed grid in no plane of the body."""
    q, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = np.eye(4)
    affine[:3] = np.column_stack([q * np.sign(np.linalg.det(q)) * [spacing, spacing + 0.2, gap], OBLIQUE[:3, 3]])
    return affine


def uid(series: str, z: int, t: int) -> str:
    """Of the image at slice z and frame t of a series. Other subjects have the same: nobody compares them."""
    return generate_uid(entropy_srcs=[series, str(z), str(t)])


def header(affine: np.ndarray, z: int, shape: tuple[int, ...], series: str, **fields: Any) -> Dataset:
    """What UK Biobank's files tell of one image of slice z."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    found = Dataset()
    found.SeriesDescription = series
    found.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    found.SeriesNumber, found.SeriesDate, found.SeriesTime = 1, "20150830", "101500"
    found.ImagePositionPatient = [f"{v:.6f}" for v in (lps @ [0, 0, z, 1])[:3]]
    found.ImageOrientationPatient = [f"{v:.9f}" for v in (*lps[:3, 0] / spacing[0], *lps[:3, 1] / spacing[1])]
    found.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
    found.SpacingBetweenSlices, found.SliceThickness = f"{spacing[2]:.6f}", "8"
    found.CardiacNumberOfImages = shape[3]
    found.Rows, found.Columns = shape[1], shape[0]
    for name, value in fields.items():
        if value is None:
            delattr(found, name)
        else:
            setattr(found, name, value)
    return found


def images(
    cine: np.ndarray, affine: np.ndarray, series: Callable[[int], str], milliseconds: float = 20.0, **fields: Any
) -> list[Dataset]:
    """A header and pixels for every frame of every slice, in an order that says nothing."""
    found = []
    for z in range(cine.shape[2]):
        for t in range(cine.shape[3]):
            image = header(affine, z, cine.shape, series(z), **fields)
            image.TriggerTime, image.InstanceNumber = f"{3.5 + t * milliseconds}", t + 1
            image.SOPInstanceUID = uid(series(z), z, t)
            pixels = np.ascontiguousarray(cine[:, :, z, t].T.astype(np.uint16))
            image.PixelData, image.BitsAllocated, image.BitsStored, image.HighBit = pixels.tobytes(), 16, 16, 15
            image.SamplesPerPixel, image.PixelRepresentation, image.PhotometricInterpretation = 1, 0, "MONOCHROME2"
            found.append(image)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def encode(image: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    file = io.BytesIO()
    whole = FileDataset(file, image, file_meta=meta, preamble=b"\0" * 128)
    whole.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write(path: Path, files: Iterable[Dataset | bytes], manifest: str | None = "manifest.cvs") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, file in enumerate(files):
            archive.writestr(f"1.3.12.{i}.dcm", file if isinstance(file, bytes) else encode(file))
        if manifest:
            archive.writestr(manifest, MANIFEST)
    return path


def sax_series(z: int) -> str:
    return f"CINE_segmented_SAX_b{z + 1}"


def lax_series(view: int) -> str:
    return f"CINE_segmented_LAX_{view}Ch"


def short_axis(cine: np.ndarray, affine: np.ndarray, **fields: Any) -> list[Dataset]:
    return images(cine, affine, sax_series, **fields)


def long_axis(cine: np.ndarray, affine: np.ndarray, view: int, **fields: Any) -> list[Dataset]:
    return images(cine, affine, lambda _: lax_series(view), **fields)
