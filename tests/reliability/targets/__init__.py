"""What the fuzzer reads: a list of `Target`, by the module that holds it.

Modules are imported on demand, so that the process of one reader does not load the others'
libraries.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.reliability.mutations import Mutate

# Target -> the module that holds it in its list `TARGETS`.
MODULES = {
    **dict.fromkeys(("nifti_image", "nifti_label", "predict"), "nifti"),
    **dict.fromkeys(("ukb_dicom", "ukb_zip", "cvi42"), "dicom"),
    **dict.fromkeys(("acdc", "mnms", "mnms2", "sunnybrook", "ukb_nifti", "nifti_table", "synthetic"), "cohorts"),
    **dict.fromkeys(("table", "ukb_export", "parquet", "subject_lists", "split_file"), "tables"),
    **dict.fromkeys(("safetensors", "torch"), "weights"),
    **dict.fromkeys(("dataset", "records", "run_json", "checkpoint"), "stored"),
}
# Of the inputs asked for, for readers that take tens of milliseconds.
FRACTIONS = {"checkpoint": 0.1, "predict": 0.2}
SPACING_MM = (0.02, 100.0)  # voxels of a heart, the limits that the readers state


class Implausible(AssertionError):
    """A reader has accepted a file and returned a value that cannot be true."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader of foreign files.

    build:  writes an intact example into an empty folder, and returns the mutation of each file by
        its relative path; a file that is listed several times is mutated as often.
    read:   reads a folder, of which the given paths have changed. Raises Implausible.
    named:  the errors that the reader documents.
    """

    name: str
    build: Callable[[Path], Sequence[tuple[str, Mutate]]]
    read: Callable[[Path, Sequence[Path]], None]
    named: tuple[type[Exception], ...]


def find(name: str, module: str = "") -> Target:
    """The target of a name. module: dotted name, where it is not one of MODULES."""
    found = importlib.import_module(module or f"{__name__}.{MODULES[name]}")
    return next(target for target in found.TARGETS if target.name == name)


def require(condition: object, message: str) -> None:
    """Raises Implausible unless the condition holds."""
    if not condition:
        raise Implausible(message)


def replace(path: Path, data: bytes) -> None:
    """Writes a new file: some file systems wait for the disk where an old one is shortened."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def check_frame(image: np.ndarray, label: np.ndarray | None, affine: np.ndarray, most: int = 1 << 20) -> None:
    """Raises Implausible for a frame with NaN, wrong types or shapes, or a spacing of no heart.

    most: voxels of the example, which no small change of a header multiplies unnoticed.
    """
    require(image.ndim == 3 and 0 < image.size <= most, f"image of shape {image.shape}")
    require(image.dtype == np.float32 and np.isfinite(image).all(), f"image of {image.dtype} with NaN or infinity")
    require(affine.shape == (4, 4) and np.isfinite(affine).all(), f"affine {affine}")
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    low, high = SPACING_MM
    require(((spacing >= low * 0.999) & (spacing <= high * 1.001)).all(), f"spacing {spacing} mm")
    volume = abs(np.linalg.det(affine[:3, :3]))
    require(np.isclose(volume, spacing.prod(), rtol=1e-3), f"axes are not perpendicular: {affine}")
    if label is not None:
        require(label.shape == image.shape and label.dtype == np.uint8, f"label {label.dtype} {label.shape}")
        require(label.max() <= 5, f"label with the value {label.max()}")


def check_subject(views: Mapping) -> None:
    """Raises Implausible for a subject with an implausible frame (`check_frame`)."""
    for view in views.values():
        for frame in (*view.frames, *view.cine):
            check_frame(frame.image, frame.label, frame.affine)
