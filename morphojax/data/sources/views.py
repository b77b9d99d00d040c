"""A view from files of known phases: an image per phase, a cine with frame numbers, or both."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources import nifti
from morphojax.data.sources.base import CohortError, Frame, View


@dataclasses.dataclass(frozen=True)
class Images:
    """An image and its label, if any: both 3-D (a phase) or both 4-D (a cine)."""

    image: nifti.Volume
    label: nifti.Volume | None = None

    def frame(self, phase: str, number: int, convention: anatomy.Convention | None, phase_from: str) -> Frame:
        """One frame. A frame of a cine whose label is all background counts as not annotated."""
        label = None
        if self.label is not None and convention is not None and (self.label.raw.ndim == 3 or self.label.drawn(number)):
            label = nifti.canonical_label(self.label, convention, self.image, number)
        return Frame(phase, self.image.values(number), label, self.image.affine, phase_from)


@dataclasses.dataclass(frozen=True)
class ViewFiles:
    """The images of one plane of one subject, and which phases they show.

    convention: meaning of the label values; None without labels.
    phases:     phase -> an image of its own; it wins over a frame of the cine.
    numbers:    phase -> its frame in the cine, counting from 0.
    metadata:   the file or folder that says so, for messages.
    """

    plane: str
    convention: anatomy.Convention | None
    phases: Mapping[str, Images]
    cine: Images | None
    numbers: Mapping[str, int]
    metadata: Path


def read(plane: str, image: Path, label: Path | None, ndim: int, warnings: list[str]) -> Images:
    """Loads an image and its label. Raises CohortError."""
    volume = nifti.load_noting(image, ndim, plane, warnings)
    label_volume = nifti.load_noting(label, ndim, plane, warnings) if label else None
    if label_volume is not None and label_volume.frames != volume.frames:
        raise CohortError(
            f"{label_volume.path}: {label_volume.frames} frames for a cine of {volume.frames}; export it again"
        )
    return Images(volume, label_volume)


def build(files: ViewFiles, choice: str, warnings: list[str]) -> View:
    """The view of a plane; mid is halfway from ED to ES in a cine.

    choice: which frames of the cine to keep besides the phases (`base.cine_frames`). Raises
        CohortError for impossible frame numbers and where ED is absent.
    """
    cine, plane = files.cine, files.plane
    numbers = _phase_numbers(files) if cine is not None else {}
    frames = []
    for phase in anatomy.PHASES:
        if phase in files.phases:
            frames.append(files.phases[phase].frame(phase, 0, files.convention, "file"))
        elif cine is not None and phase in numbers:
            phase_from = "halfway" if phase == "mid" else "metadata"
            frames.append(cine.frame(phase, numbers[phase], files.convention, phase_from))
    phases = {frame.phase for frame in frames}
    if "ED" not in phases:
        raise CohortError(f"{files.metadata}: no ED of the plane {plane}; add it or leave the subject out")
    if "ES" not in phases:
        warnings.append(f"{plane}: no ES image")
    labelled = files.convention.labelled if files.convention is not None else ()
    if cine is None:
        if choice != "phases":
            warnings.append(f"{plane}: no cine")
        return View(plane, tuple(frames), labelled)

    def label(number: int) -> np.ndarray | None:
        return cine.frame(anatomy.cine_phase(number), number, files.convention, "number").label

    return View(plane, tuple(frames), labelled, nifti.CineFrames(cine.image, choice, label))


def _phase_numbers(files: ViewFiles) -> Mapping[str, int]:
    """`files.numbers` checked against the cine, and mid where ED and ES are not adjacent."""
    assert files.cine is not None
    image, numbers = files.cine.image, files.numbers
    for phase, number in numbers.items():
        if number >= image.frames:
            raise CohortError(
                f"{files.metadata}: {phase} is frame {number}, counting from 0, of a cine of {image.frames} frames "
                f"({image.path}); correct the number"
            )
    if "ED" in numbers and numbers["ED"] == numbers.get("ES"):
        raise CohortError(f"{files.metadata}: ED and ES are both frame {numbers['ED']} of {image.path}; correct one")
    if {"ED", "ES"} <= numbers.keys() and abs(numbers["ES"] - numbers["ED"]) > 1:
        return {"mid": (numbers["ED"] + numbers["ES"]) // 2} | dict(numbers)
    return numbers
