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
    """The affine of a right-handed oblique grid."""
    q, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = np.eye(4)
    affine[:3] = np.column_stack([q * np.sign(np.linalg.det(q)) * [spacing, spacing + 0.2, gap], OBLIQUE[:3, 3]])
    return affine


def uid(series: str, z: int, t: int) -> str:
    """SOP instance UID of slice z and frame t of a series; the same for every subject."""
    return generate_uid(entropy_srcs=[series, str(z), str(t)])


def header(affine: np.ndarray, z: int, shape: tuple[int, ...], series: str, **fields: Any) -> Dataset:
    """The header of one image of slice z, with the keywords of UK Biobank's files."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = Dataset()
    image.SeriesDescription = series
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    image.SeriesNumber, image.SeriesDate, image.SeriesTime = 1, "20150830", "101500"
    image.ImagePositionPatient = [f"{v:.6f}" for v in (lps @ [0, 0, z, 1])[:3]]
    image.ImageOrientationPatient = [f"{v:.9f}" for v in (*lps[:3, 0] / spacing[0], *lps[:3, 1] / spacing[1])]
    image.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
    image.SpacingBetweenSlices, image.SliceThickness = f"{spacing[2]:.6f}", "8"
    image.CardiacNumberOfImages = shape[3]
    image.Rows, image.Columns = shape[1], shape[0]
    for name, value in fields.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    return image


def images(
    cine: np.ndarray, affine: np.ndarray, series: Callable[[int], str], milliseconds: float = 20.0, **fields: Any
) -> list[Dataset]:
    """An image for every frame of every slice, in random order."""
    files = []
    for z in range(cine.shape[2]):
        for t in range(cine.shape[3]):
            image = header(affine, z, cine.shape, series(z), **fields)
            image.TriggerTime, image.InstanceNumber = f"{3.5 + t * milliseconds}", t + 1
            image.SOPInstanceUID = uid(series(z), z, t)
            pixels = np.ascontiguousarray(cine[:, :, z, t].T.astype(np.uint16))
            image.PixelData, image.BitsAllocated, image.BitsStored, image.HighBit = pixels.tobytes(), 16, 16, 15
            image.SamplesPerPixel, image.PixelRepresentation, image.PhotometricInterpretation = 1, 0, "MONOCHROME2"
            files.append(image)
    return [files[i] for i in np.random.default_rng(0).permutation(len(files))]


def encode(image: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    file = io.BytesIO()
    dataset = FileDataset(file, image, file_meta=meta, preamble=b"\0" * 128)
    dataset.save_as(file, enforce_file_format=True)
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
