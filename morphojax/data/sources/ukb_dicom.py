"""The cardiac cines of UK Biobank as they are downloaded: zips of DICOM files.

<root>/<eid>_20209_<visit>_<array>.zip   short axis; or in a folder <root>/<eid>/
<root>/<eid>_20208_<visit>_<array>.zip   long axis
<root>/<eid>.cvi42wsx                     contours, where somebody drew any; or any one such file in <root>/<eid>/
<root>/table.csv                          an export of the table, or one with rows by `subject` beside a dictionary.csv

A series is told by its description in the DICOM headers. A manifest says the same, but a comma in a date shifts its columns, and
some zips have none: none is read.
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import contours, cvi42, dicom, nifti, table_files, ukb_nifti
from morphojax.data.sources.base import CohortError, Folder, Subject
from morphojax.data.tables.schema import Schema

_NAME = re.compile(r"(?P<eid>[0-9A-Za-z-]+)_(?P<field>20208|20209)_(?P<visit>\d+)_(?P<array>\d+)\.zip")
_FIELD = {"sax": 20209, "la_2ch": 20208, "la_4ch": 20208}
_VISITS = (2, 3)  # the first imaging visit, and the repeat
_ARRAYS = (0, 1)
_SHORT = re.compile(r"CINE_segmented_SAX(?:_b(\d+))?", re.IGNORECASE)
_LONG = re.compile(r"CINE_segmented_LAX(?:_([234])ch)?", re.IGNORECASE)
_LONG_ORDER = ("3", "4", "2")  # of the views in a series that holds all three
_APART_MM = 0.2  # slices and spacings that differ by less are taken as equal
_ORIENTATION = 1e-3
Labels = tuple[nifti.Volume, anatomy.Convention]  # [X, Y, Z, T], and what the numbers mean


@dataclasses.dataclass(frozen=True)
class Cine:
    """One plane of one subject: `volume.raw` [X, Y, Z, T], the time from frame to frame in seconds (0: not told), and the SOP instance
    UIDs [Z][T] of the images. `labels`: of what was drawn in them."""

    volume: nifti.Volume
    seconds: float
    uids: tuple[tuple[str, ...], ...]
    labels: Labels | None = None


class UkbDicom(Folder):
    """Source for folders of UK Biobank's DICOM zips, of the first imaging visit where both were downloaded. Labels are the contours of a
    cvi42 workspace. ED is frame 0; ES as `ukb_nifti` finds it."""

    name = "ukb_dicom"
    reads_exports = True

    def subjects(self) -> Sequence[str]:
        if not self.root.is_dir():
            raise CohortError(f"{self.root}: no such folder")
        found = Counter(
            m.groups() for p in (*self.root.glob("*.zip"), *self.root.glob("*/*.zip")) if (m := _NAME.fullmatch(p.name))
        )
        if not found:
            raise CohortError(f"{self.root}: holds no <eid>_20208_2_0.zip or <eid>_20209_2_0.zip")
        if twice := sum(n > 1 for n in found.values()):
            raise CohortError(f"{self.root}: {twice} zips are there twice, in the folder and below; remove one of each")
        return sorted({eid for eid, *_ in found})

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        views, warnings = {}, []
        for plane, cine in self.cines(subject, planes, warnings).items():
            views[plane] = ukb_nifti.assemble(plane, cine.volume, self.frames, warnings, cine.labels)
        return Subject(subject, views, tuple(warnings))

    def cines(self, subject: str, planes: Sequence[str], warnings: list[str]) -> dict[str, Cine]:
        """The cines of those planes that the subject has; what had to be assumed goes to `warnings`. Raises CohortError."""
        zips = self._zips(subject, warnings)
        found: dict[str, Cine] = {}
        for field in sorted({_FIELD[plane] for plane in planes} & set(zips)):
            path = zips[field]
            if field == 20209:
                series = {"sax": _short_axis(path, _named(path, _SHORT), warnings)}
            else:
                series = {f"la_{n}ch": [s] for n, s in _long_axis(path, _named(path, _LONG), warnings).items()}
            found |= {plane: _cine(path, plane, series[plane], warnings) for plane in planes if series.get(plane)}
        warnings.extend(f"{plane}: no images" for plane in planes if plane not in found)
        found = {plane: found[plane] for plane in planes if plane in found}
        workspace = self._workspace(subject)
        return _labelled(workspace, found, planes, warnings) if workspace else found

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        return table_files.beside(self)

    def _workspace(self, subject: str) -> Path | None:
        beside = self.root / f"{subject}.cvi42wsx"
        found = [*([beside] if beside.is_file() else []), *sorted((self.root / subject).glob("*.cvi42wsx"))]
        if len(found) > 1:
            raise CohortError(f"{found[0]}: {len(found)} cvi42 workspaces of one subject; keep the one that counts")
        return found[0] if found else None

    def _zips(self, subject: str, warnings: list[str]) -> dict[int, Path]:
        """Field -> zip, of the earliest visit that has any."""
        for visit in _VISITS:
            found = {}
            for field in set(_FIELD.values()):
                names = [f"{subject}_{field}_{visit}_{array}.zip" for array in _ARRAYS]
                paths = [p for name in names for p in (self.root / name, self.root / subject / name) if p.is_file()]
                if paths:
                    found[field] = paths[-1]  # a second array is a second download of the same examination
                    if len(paths) > 1:
                        warnings.append(f"field {field}: several zips, the last taken")
            if found:
                if visit != _VISITS[0]:
                    warnings.append("images of the repeat visit")
                return found
        raise CohortError(f"{self.root}: no zip of the fields 20208 and 20209 for a subject that was listed")


def _labelled(path: Path, cines: dict[str, Cine], planes: Sequence[str], warnings: list[str]) -> dict[str, Cine]:
    """The cines, with what was drawn in them in a workspace."""
    drawn, found = cvi42.read_contours(path), {}
    for plane, cine in cines.items():
        columns, rows = cine.volume.raw.shape[:2]
        labels = contours.labels_for(path, cine.uids, drawn, (rows, columns), anatomy.PLANE_STRUCTURES[plane])
        warnings.extend(f"{plane}: {w}" for w in labels.warnings)
        found[plane] = cine
        if any(f is not None for f in labels.frames):
            if labels.frames[0] is None:
                warnings.append(f"{plane}: contours, but none in frame 0, which is ED")
            nothing = np.zeros(cine.volume.raw.shape[:3], np.uint8)
            raw = np.stack([nothing if f is None else f for f in labels.frames], axis=-1)
            volume = nifti.Volume(path, raw, 1.0, 0.0, cine.volume.affine)
            meaning = anatomy.Convention("contours", {anatomy.LABEL_ID[s]: s for s in labels.labelled})
            found[plane] = dataclasses.replace(cine, labels=(volume, meaning))
    # Long-axis contours belong to either view, so only those of nobody's images are noticed where both are read.
    kinds = [kind for kind, its in (("sa", {"sax"}), ("la", set(anatomy.LONG_AXIS))) if its <= set(planes)]
    warnings.extend(contours.unplaced(drawn, (u for c in cines.values() for s in c.uids for u in s), kinds))
    return found


Slices = list[dicom.Image]  # the frames of one slice


def _named(path: Path, pattern: re.Pattern[str]) -> dict[str, Slices]:
    """The images of a zip by what `pattern` finds in the description of their series: a number, or "" where it has none."""
    found: dict[str, Slices] = defaultdict(list)
    for image in dicom.read_zip(path):
        if match := pattern.fullmatch(image.text("SeriesDescription")):
            found[match[1] or ""].append(image)
    return found


def _short_axis(path: Path, images: dict[str, Slices], warnings: list[str]) -> list[Slices]:
    """The slices in the order of their numbers (`_b1`, `_b2`, ...); of a series that holds them all, in the order of their frames."""
    together = images.pop("", [])
    numbered = {int(number): found for number, found in images.items()}
    if numbered:
        expected = range(min(numbered), max(numbered) + 1)
        if absent := [n for n in expected if n not in numbered]:
            raise CohortError(
                f"{path}: short-axis series {', '.join(map(str, absent))} of {len(expected)} is missing; download it again"
            )
        return [_last_series("sax", numbered[n], warnings) for n in expected]
    return _by_place(_last_series("sax", together, warnings)) if together else []


def _long_axis(path: Path, views: dict[str, Slices], warnings: list[str]) -> dict[str, Slices]:
    """The frames of each view, by its number of chambers."""
    together = views.pop("", [])
    if views or not together:
        return {n: _last_series(f"la_{n}ch", found, warnings) for n, found in views.items()}
    places = _by_place(_last_series("long axis", together, warnings))
    if len(places) != len(_LONG_ORDER):
        raise CohortError(
            f"{path}: one long-axis series of {len(places)} views, where three are expected; leave the subject out"
        )
    warnings.append("long-axis views told apart by their order in one series")
    return dict(zip(_LONG_ORDER, places, strict=True))


def _last_series(what: str, images: Slices, warnings: list[str]) -> Slices:
    """A series was repeated when the first was not good enough: the last acquired counts."""
    series: dict[str, Slices] = defaultdict(list)
    for image in images:
        series[image.text("SeriesInstanceUID")].append(image)
    if len(series) > 1:
        _warn(warnings, f"{what}: a series was repeated, the last taken")

    def acquired(found: Slices) -> tuple[str, str, float]:
        first = found[0]
        return (
            first.text("SeriesDate") or first.text("StudyDate"),
            first.text("SeriesTime") or first.text("AcquisitionTime"),
            first.number("SeriesNumber") or 0,
        )

    return max(series.values(), key=acquired)


def _by_place(images: Slices) -> list[Slices]:
    """One list for each position and orientation, in the order of the numbers of their first images."""
    places: dict[tuple[float, ...], Slices] = defaultdict(list)
    for image in sorted(images, key=lambda i: i.number("InstanceNumber") or 0):
        places[tuple(np.round(np.concatenate(_place(image)), 3))].append(image)
    return list(places.values())


def _place(image: dicom.Image) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] in mm and orientation [6], LPS."""
    position, orientation = image.numbers("ImagePositionPatient", 3), image.numbers("ImageOrientationPatient", 6)
    if position is None or orientation is None:
        raise CohortError(f"{image.name}: does not tell where the slice lies; leave the subject out")
    return position, orientation


def _cine(path: Path, plane: str, slices: list[Slices], warnings: list[str]) -> Cine:
    counts = {int(n) for s in slices for i in s if (n := i.number("CardiacNumberOfImages"))}
    if len(counts) > 1:
        raise CohortError(
            f"{path}: {plane} has slices of {' and '.join(map(str, sorted(counts)))} frames; leave the subject out"
        )
    frames = counts.pop() if counts else max(map(len, slices))
    ordered, intervals = [], []
    for images in slices:
        found, seconds = _in_time(path, plane, images, frames, warnings)
        ordered.append(found)
        intervals.append(seconds)
    affine = _affine(path, plane, ordered, warnings)
    planes = [[image.pixels() for image in s] for s in ordered]
    shapes = {p.shape for s in planes for p in s}
    if len(shapes) > 1:
        raise CohortError(
            f"{path}: {plane} has images of {' and '.join(map(str, sorted(shapes)))} pixels; leave the subject out"
        )
    stored = np.empty((frames, len(planes), *shapes.pop()[::-1]), np.result_type(*(p.dtype for s in planes for p in s)))
    for z, images in enumerate(planes):
        for t, image in enumerate(images):
            stored[t, z] = image.T
    if stored.dtype == np.uint16 and stored.max(initial=0) <= np.iinfo(np.int16).max:
        stored = stored.view(np.int16)
    raw = stored.T  # [X, Y, Z, T], X the fastest, as NIfTI has it
    uids = tuple(tuple(image.text("SOPInstanceUID") for image in s) for s in ordered)
    return Cine(nifti.Volume(path, raw, 1.0, 0.0, affine), float(np.median(intervals)) / 1000, uids)


def _in_time(path: Path, plane: str, images: Slices, frames: int, warnings: list[str]) -> tuple[Slices, float]:
    """The `frames` images of a slice in the order of their trigger times, and the ms between them. A missing one repeats the one before."""
    times = [image.number("TriggerTime") for image in images]
    if any(t is None for t in times):
        times = [image.number("InstanceNumber") for image in images]
        if any(t is None for t in times) or len(set(times)) < len(times):
            raise CohortError(
                f"{path}: {plane} has frames without trigger times or numbers, so no order; leave the subject out"
            )
        _warn(warnings, f"{plane}: no trigger times, frames ordered by number")
        interval = 0.0
    else:
        interval = float(np.median(np.diff(np.unique(np.array(times, float))))) if len(set(times)) > 1 else 0.0
    by_time = sorted(zip(times, images, strict=True), key=lambda pair: pair[0])  # pyrefly: ignore
    kept: list[tuple[float, dicom.Image]] = []
    for time, image in by_time:
        if kept and time == kept[-1][0]:
            if not np.array_equal(image.pixels(), kept[-1][1].pixels()):
                raise CohortError(
                    f"{path}: {plane} has two different frames at {time:g} ms of one slice; leave the subject out"
                )
            _warn(warnings, f"{plane}: a frame is there twice")
            continue
        kept.append((time, image))  # pyrefly: ignore
    if len(kept) > frames:
        raise CohortError(
            f"{path}: {plane} has {len(kept)} frames of one slice, of {frames} said; leave the subject out"
        )
    if len(kept) == frames:
        return [image for _, image in kept], interval
    return _filled(path, plane, kept, frames, warnings), interval


def _filled(path: Path, plane: str, kept: list[tuple[float, dicom.Image]], frames: int, warnings: list[str]) -> Slices:
    """`frames` images of those that there are, by the places that their times have among equally spaced ones."""
    times = np.array([t for t, _ in kept])
    if len(kept) < max(2, frames // 2):
        raise CohortError(f"{path}: {plane} has {len(kept)} frames of {frames} of one slice; download it again")
    places = np.round((times - times[0]) / np.median(np.diff(times))).astype(int)
    if len(set(places)) < len(places) or places[-1] >= frames:
        raise CohortError(
            f"{path}: {plane} lacks frames of one slice, and the others are not evenly spaced; leave the subject out"
        )
    _warn(warnings, f"{plane}: missing frames repeat the ones before")
    latest = np.searchsorted(places, np.arange(frames), side="right") - 1
    return [kept[i][1] for i in latest]


def _affine(path: Path, plane: str, slices: list[Slices], warnings: list[str]) -> np.ndarray:
    """Voxel index -> mm, RAS+, of the frames of slices: DICOM's LPS with x and y turned round.

    From slice to slice it goes as their positions do; SpacingBetweenSlices, else SliceThickness, tells the depth of a single one, whose
    axes are right-handed.
    """
    first = slices[0][0]
    places = [_place(images[0]) for images in slices]
    position, orientation = places[0]
    spacing = first.numbers("PixelSpacing", 2)
    if spacing is None or not (spacing > 0).all():
        raise CohortError(f"{path}: {plane} does not tell its pixel spacing; leave the subject out")
    for (at, _), images in zip(places, slices, strict=True):
        for where, turned in map(_place, images):
            if np.abs(turned - orientation).max() > _ORIENTATION:
                raise CohortError(f"{path}: slices of {plane} are not parallel; leave the subject out")
            if np.abs(where - at).max() > _APART_MM:
                raise CohortError(
                    f"{path}: frames of one slice of {plane} lie in different places; leave the subject out"
                )
    along, down = orientation[:3], orientation[3:]
    gap = first.number("SpacingBetweenSlices")
    if len(places) > 1:
        steps = np.diff([p for p, _ in places], axis=0)
        step = np.median(steps, axis=0)
        if np.abs(steps - step).max() > _APART_MM or np.linalg.norm(step) < _APART_MM:
            raise CohortError(
                f"{path}: slices of {plane} are not evenly spaced: one is missing, or moved; leave the subject out"
            )
        if gap is not None and abs(gap - np.linalg.norm(step)) > _APART_MM:
            _warn(
                warnings, f"{plane}: slices lie otherwise apart than SpacingBetweenSlices says; their positions count"
            )
    else:
        depth = gap or first.number("SliceThickness")
        if not depth or depth <= 0:
            raise CohortError(
                f"{path}: {plane} tells neither SpacingBetweenSlices nor SliceThickness; leave the subject out"
            )
        step = np.cross(along, down) * depth
    lps = np.eye(4)
    lps[:3] = np.stack([along * spacing[1], down * spacing[0], step, position], 1)
    # Rounded as a NIfTI file holds it, so that records are the same, converted or not.
    return (np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps).astype(np.float32).astype(np.float64)


def _warn(warnings: list[str], message: str) -> None:
    if message not in warnings:
        warnings.append(message)
