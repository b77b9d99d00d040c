"""A view from files whose frames are known: an image of each phase, a cine with the numbers of its phases, or both."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources import nifti
from morphojax.data.sources.base import CohortError, Frame, View


@dataclasses.dataclass(frozen=True)
class Images:
    """An image and, where there is one, its label: both 3-D (a phase) or both 4-D (a cine)."""

    image: nifti.Volume
    label: nifti.Volume | None = None

    def frame(self, phase: str, number: int, convention: anatomy.Convention | None, phase_from: str) -> Frame:
        """One frame; of a cine, a frame in which nothing is drawn has no label."""
        label = None
        if self.label is not None and convention is not None and (self.label.raw.ndim == 3 or self.label.drawn(number)):
            label = nifti.canonical_label(self.label, convention, self.image, number)
        return Frame(phase, self.image.values(number), label, self.image.affine, phase_from)


def read(plane: str, image: Path, label: Path | None, ndim: int, warnings: list[str]) -> Images:
    """Loads an image and its label, with direction cosines made orthonormal where they are nearly so. Raises CohortError."""
    found, crooked = nifti.straighten(nifti.load(image, ndim))
    if crooked and (message := f"{plane}: direction cosines not quite orthonormal, made so") not in warnings:
        warnings.append(message)
    drawn = nifti.straighten(nifti.load(label, ndim))[0] if label else None
    if drawn is not None and drawn.frames != found.frames:
        raise CohortError(f"{drawn.path}: {drawn.frames} frames for a cine of {found.frames}; export it again")
    return Images(found, drawn)


def build(
    plane: str,
    convention: anatomy.Convention | None,
    phases: Mapping[str, Images],
    cine: Images | None,
    numbers: Mapping[str, int],
    choice: str,
    warnings: list[str],
    told_by: Path,
) -> View:
    """The view of a plane. `phases` are images of their own, `numbers` the frames (from 0) of phases in the cine; the image wins.
    mid is halfway from ED to ES in a cine. `choice`: `Folder.frames`. Raises CohortError, naming `told_by`, for numbers that
    cannot be, and where there is no ED."""
    if cine is not None:
        for phase, number in numbers.items():
            if number >= cine.image.frames:
                raise CohortError(
                    f"{told_by}: {phase} is frame {number}, counting from 0, of a cine of {cine.image.frames} frames "
                    f"({cine.image.path})"
                )
        if "ED" in numbers and numbers["ED"] == numbers.get("ES"):
            raise CohortError(f"{told_by}: ED and ES are both frame {numbers['ED']} of {cine.image.path}; correct one")
        if {"ED", "ES"} <= numbers.keys() and abs(numbers["ES"] - numbers["ED"]) > 1:
            numbers = {"mid": (numbers["ED"] + numbers["ES"]) // 2} | dict(numbers)
    frames = []
    for phase in anatomy.PHASES:
        if phase in phases:
            frames.append(phases[phase].frame(phase, 0, convention, "file"))
        elif cine is not None and phase in numbers:
            known = "halfway" if phase == "mid" else "metadata"
            frames.append(cine.frame(phase, numbers[phase], convention, known))
    have = {frame.phase for frame in frames}
    if "ED" not in have:
        raise CohortError(f"{told_by}: no ED of the plane {plane}; ED is needed")
    if "ES" not in have:
        warnings.append(f"{plane}: no ES image")
    labelled = convention.labelled if convention is not None else ()
    if cine is None:
        if choice != "phases":
            warnings.append(f"{plane}: no cine")
        return View(plane, tuple(frames), labelled)

    def label(number: int) -> np.ndarray | None:
        return cine.frame(anatomy.cine_phase(number), number, convention, "number").label

    return View(plane, tuple(frames), labelled, nifti.Cine(cine.image, choice, label))
