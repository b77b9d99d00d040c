"""The UK Biobank NIfTI layout of the public cardiac pipeline of Bai et al. (JCMR 2018).

<root>/<subject>/{sa,la_2ch,la_4ch}.nii.gz            4-D cine, and/or
<root>/<subject>/{sa,la_2ch,la_4ch}_{ED,ES}.nii.gz    3-D images
<root>/<subject>/{label,seg4,seg}_*.nii.gz            labels, 4-D and/or 3-D as the images
<root>/table.csv, <root>/dictionary.csv               rows by `subject`, and their data dictionary

Of several families of labels, the first of `label_*` (manual), `seg4_*` and `seg_*` is used.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files
from morphojax.data.sources.base import CohortError, Frame, Subject, View

PREFIX = {"sax": "sa", "la_2ch": "la_2ch", "la_4ch": "la_4ch"}
_CONVENTION = {plane: anatomy.CONVENTIONS[f"ukb_{plane}"] for plane in PREFIX}
# Families of label files: (stem, convention), best first. In the four-chamber segmentations of the
# automatic pipeline (`seg4`), the numbers are those of all five structures.
_FAMILIES = {
    "sax": (("label_sa", "ukb_sax"), ("seg_sa", "ukb_sax")),
    "la_2ch": (("label_la_2ch", "ukb_la_2ch"), ("seg_la_2ch", "ukb_la_2ch")),
    "la_4ch": (("label_la_4ch", "ukb_la_4ch"), ("seg4_la_4ch", "canonical"), ("seg_la_4ch", "ukb_la_4ch")),
}


@dataclasses.dataclass(frozen=True)
class _Labels:
    """The labels of one plane of one subject, of one family of files and so of one convention.

    stem: the beginning of the file names; None without label files.
    cine: the 4-D labels, if any.
    note: the plane and the warnings of the subject, to which reading a label adds.
    """

    folder: Path
    stem: str | None
    convention: anatomy.Convention
    cine: nifti.Volume | None
    note: tuple[str, list[str]]

    def of(self, phase: str, frame: int | None, image: nifti.Volume) -> np.ndarray | None:
        """The label of a phase: from its own file, else from that frame of the 4-D labels.

        None where neither exists. A frame that is all background counts as not annotated.
        """
        path = nifti.find(self.folder, f"{self.stem}_{phase}") if self.stem and phase in ("ED", "ES") else None
        if path is not None:
            return nifti.canonical_label(nifti.load_noting(path, 3, *self.note), self.convention, image)
        if self.cine is None or frame is None or not self.cine.drawn(frame):
            return None
        return nifti.canonical_label(self.cine, self.convention, image, frame)


class UkbNifti(table_files.UkbTableSource):
    """Source for the UK Biobank NIfTI layout.

    ED is frame 0. ES is its own file, else the frame of the smallest LV cavity (short axis) or
    largest LA (long axis) in the 4-D labels, else estimated from the images, with a warning.
    """

    name = "ukb_nifti"

    def subjects(self) -> Sequence[str]:
        return sorted(table_files.folders(self.root, ("sa*.nii*", "la_[24]ch*.nii*")))

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        folder = self.root / subject
        if not folder.is_dir():
            raise CohortError(f"{self.root}: no folder of subject {subject}")
        views, warnings = {}, []
        for plane in planes:
            view = _read_view(folder, plane, self.frames, warnings)
            if view is None:
                warnings.append(f"{plane}: no images")
            else:
                views[plane] = view
        return Subject(subject, views, tuple(warnings))


def _read_view(folder: Path, plane: str, choice: str, warnings: list[str]) -> View | None:
    prefix = PREFIX[plane]
    cine_path = nifti.find(folder, prefix)
    files = {phase: nifti.find(folder, f"{prefix}_{phase}") for phase in ("ED", "ES")}
    labels = _find_labels(folder, plane, warnings)
    if cine_path is None and not any(files.values()):
        if labels.stem is not None:
            raise CohortError(f"{folder}: {labels.stem}* has no image {prefix}*.nii.gz; add it or remove the label")
        return None
    cine = nifti.load_noting(cine_path, 4, plane, warnings) if cine_path else None
    if cine is not None and labels.cine is not None and labels.cine.frames != cine.frames:
        raise CohortError(
            f"{labels.cine.path}: {labels.cine.frames} frames for a cine of {cine.frames}; export it again"
        )
    if cine is None and files["ED"] is None:
        raise CohortError(f"{folder}: needs ED, but neither {prefix}.nii.gz nor {prefix}_ED.nii.gz exists; add one")

    images = {phase: nifti.load_noting(path, 3, plane, warnings) for phase, path in files.items() if path}
    return _view(plane, images, cine, labels, choice, warnings)


def assemble(
    plane: str,
    cine: nifti.Volume,
    choice: str,
    warnings: list[str],
    labels: tuple[nifti.Volume, anatomy.Convention] | None = None,
) -> View:
    """The view of a cine, by the rules of this layout.

    labels: [X, Y, Z, T] on the grid of the cine, all zero in frames that are not annotated, and
        their convention.
    choice: which frames to keep besides the phases (`base.cine_frames`).
    """
    volume, convention = labels or (None, _CONVENTION[plane])
    return _view(plane, {}, cine, _Labels(cine.path, None, convention, volume, (plane, warnings)), choice, warnings)


def _view(
    plane: str,
    images: dict[str, nifti.Volume],
    cine: nifti.Volume | None,
    labels: _Labels,
    choice: str,
    warnings: list[str],
) -> View:
    numbers: dict[str, int | None] = {"ED": 0 if cine is not None else None, "ES": None}
    phase_from = {"ED": "first frame", "ES": "motion", "mid": "halfway"}
    if cine is not None:
        numbers["ES"], phase_from["ES"] = _end_systole(plane, cine, labels, images.get("ES"), warnings)
        numbers["mid"] = numbers["ES"] // 2 if numbers["ES"] is not None and numbers["ES"] > 1 else None
    elif "ES" not in images:
        warnings.append(f"{plane}: no ES image")

    frames = []
    for phase in anatomy.PHASES:
        number = numbers.get(phase)
        if phase in images:
            image, index, phase_from[phase] = images[phase], 0, "file"
        elif cine is not None and number is not None:
            image, index = cine, number
        else:
            continue
        label = labels.of(phase, number, image)
        frames.append(Frame(phase, image.values(index), label, image.affine, phase_from[phase]))
    if cine is None:
        if choice != "phases":
            warnings.append(f"{plane}: no cine")
        return View(plane, tuple(frames), labels.convention.labelled)
    other_frames = nifti.CineFrames(cine, choice, lambda number: labels.of(anatomy.cine_phase(number), number, cine))
    return View(plane, tuple(frames), labels.convention.labelled, other_frames)


def _find_labels(folder: Path, plane: str, warnings: list[str]) -> _Labels:
    """The labels of the first family that has any file; empty labels where none has."""
    for stem, convention in _FAMILIES[plane]:
        path = nifti.find(folder, stem)
        if path or any(nifti.find(folder, f"{stem}_{phase}") for phase in ("ED", "ES")):
            cine = nifti.load_noting(path, 4, plane, warnings) if path else None
            return _Labels(folder, stem, anatomy.CONVENTIONS[convention], cine, (plane, warnings))
    return _Labels(folder, None, _CONVENTION[plane], None, (plane, warnings))


def _end_systole(
    plane: str, cine: nifti.Volume, labels: _Labels, image: nifti.Volume | None, warnings: list[str]
) -> tuple[int | None, str]:
    """The frame of ES in a cine, and how it is known (`base.PHASE_FROM`).

    (None, "") where no frame but frame 0 looks like ES; without a file of ES that is a warning.
    """
    if cine.frames == 1:
        if image is None:
            warnings.append(f"{plane}: a cine of one frame, so no ES")
        return None, ""
    number, phase_from = None, "segmentation"
    if image is not None:
        number, phase_from = cine.closest(image), "file"
    elif labels.cine is not None:
        structure, best = ("lv_cavity", np.argmin) if plane == "sax" else ("la_cavity", np.argmax)
        disk = {s: n for n, s in labels.convention.structures.items()}.get(structure)
        annotated = [t for t in range(cine.frames) if labels.cine.drawn(t)]
        if disk is not None and len(annotated) > 1:
            sizes = [np.count_nonzero(labels.cine.label_values(t) == disk) for t in annotated]
            number = annotated[int(best(sizes))]
    if number is None:
        number, phase_from = _end_systole_by_motion(cine), "motion"
        warnings.append(f"{plane}: ES assumed to be the frame that differs most from frame 0")
    if number == 0:
        if image is None:
            warnings.append(f"{plane}: no frame but ED looks like ES, so no ES")
        return None, ""
    return number, phase_from


def _end_systole_by_motion(cine: nifti.Volume) -> int:
    """The frame whose central half, where the heart lies, differs most from frame 0."""
    x, y = (slice(n // 4, n - n // 4) for n in cine.raw.shape[:2])
    centre = cine.raw[x, y]
    first = centre[..., 0].astype(np.float32)
    return int(np.argmax([np.abs(centre[..., t].astype(np.float32) - first).mean() for t in range(cine.frames)]))
