"""The series of a UK Biobank DICOM zip -> the cine of each plane, with its geometry checked."""

import dataclasses
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources import dicom, nifti
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.nifti_geometry import checked

_SHORT_AXIS = re.compile(r"CINE_segmented_SAX(?:_b(\d+))?", re.IGNORECASE)
_LONG_AXIS = re.compile(r"CINE_segmented_LAX(?:_([234])ch)?", re.IGNORECASE)
_LONG_AXIS_ORDER = ("3", "4", "2")  # the views in a series that contains all three
_TOLERANCE_MM = 0.2  # positions and spacings that differ by less count as equal
_TOLERANCE_COSINE = 1e-3
_TOLERANCE_DIRECTIONS = 1e-2  # as of a NIfTI affine
_TOLERANCE_INTERVAL = 0.25  # of the time between frames, as a fraction of the median; below a half
Slices = list[dicom.Image]  # the frames of one slice
Labels = tuple[nifti.Volume, anatomy.Convention]  # [X, Y, Z, T], and the meaning of the numbers


@dataclasses.dataclass(frozen=True)
class Cine:
    """One plane of one subject.

    volume:  `raw` is [X, Y, Z, T].
    seconds: time from frame to frame; 0 where unknown.
    uids:    SOP instance UIDs [Z][T] of the images.
    labels:  the annotation; None without any.
    """

    volume: nifti.Volume
    seconds: float
    uids: tuple[tuple[str, ...], ...]
    labels: Labels | None = None


def short_axis(path: Path, warnings: list[str]) -> dict[str, list[Slices]]:
    """{"sax": slices} of a zip, empty where it has no short axis.

    Slices are in the order of their series (`_b1`, `_b2`, ...). Slices that share one series are in
    the order of their frame numbers. Raises CohortError where a series is missing.
    """
    numbered = _images_by_series(path, _SHORT_AXIS, warnings)
    shared_series = numbered.pop("", [])
    by_number = {int(number): images for number, images in numbered.items()}
    if by_number:
        expected = range(min(by_number), max(by_number) + 1)
        if absent := [n for n in expected if n not in by_number]:
            raise CohortError(
                f"{path}: short-axis series {', '.join(map(str, absent))} of {len(expected)} is missing; download it again"
            )
        return {"sax": [_last_series("sax", by_number[n], warnings) for n in expected]}
    if not shared_series:
        return {}
    return {"sax": _split_by_position(_last_series("sax", shared_series, warnings))}


def long_axis(path: Path, warnings: list[str]) -> dict[str, list[Slices]]:
    """Plane ("la_2ch", "la_3ch", "la_4ch") -> its single slice."""
    by_view = _images_by_series(path, _LONG_AXIS, warnings)
    shared_series = by_view.pop("", [])
    if by_view or not shared_series:
        return {f"la_{n}ch": [_last_series(f"la_{n}ch", images, warnings)] for n, images in by_view.items()}
    views = _split_by_position(_last_series("long axis", shared_series, warnings))
    if len(views) != len(_LONG_AXIS_ORDER):
        raise CohortError(
            f"{path}: one long-axis series of {len(views)} views, where three are expected; leave the subject out"
        )
    warnings.append("long-axis views told apart by their order in one series")
    return {f"la_{n}ch": [images] for n, images in zip(_LONG_AXIS_ORDER, views, strict=True)}


def build_cine(path: Path, plane: str, slices: list[Slices], warnings: list[str]) -> Cine:
    """The cine of the slices of a plane. Raises CohortError where it could be a wrong stack."""
    counts = {int(n) for s in slices for i in s if (n := i.number("CardiacNumberOfImages"))}
    if len(counts) > 1:
        raise CohortError(
            f"{path}: {plane} has slices of {' and '.join(map(str, sorted(counts)))} frames; leave the subject out"
        )
    frames = counts.pop() if counts else max(map(len, slices))
    ordered, intervals = [], []
    for images in slices:
        in_order, milliseconds = _in_time_order(path, plane, images, frames, warnings)
        ordered.append(in_order)
        intervals.append(milliseconds)
    affine = _affine(path, plane, ordered, warnings)
    pixels = [[image.pixels() for image in s] for s in ordered]
    shapes = {p.shape for s in pixels for p in s}
    if len(shapes) > 1:
        raise CohortError(
            f"{path}: {plane} has images of {' and '.join(map(str, sorted(shapes)))} pixels; leave the subject out"
        )
    dtype = np.result_type(*(p.dtype for s in pixels for p in s))
    stored = np.empty((frames, len(pixels), *shapes.pop()[::-1]), dtype)
    for z, images in enumerate(pixels):
        for t, image in enumerate(images):
            stored[t, z] = image.T
    if stored.dtype == np.uint16 and stored.max(initial=0) <= np.iinfo(np.int16).max:
        stored = stored.view(np.int16)
    raw = stored.T  # [X, Y, Z, T] with X contiguous, as in a NIfTI file
    uids = tuple(tuple(image.text("SOPInstanceUID") for image in s) for s in ordered)
    return Cine(nifti.Volume(path, raw, 1.0, 0.0, affine), float(np.median(intervals)) / 1000, uids)


def _images_by_series(path: Path, pattern: re.Pattern[str], warnings: list[str]) -> dict[str, Slices]:
    """The images whose series description matches, by the number in it ("" where there is none)."""
    by_series: dict[str, Slices] = defaultdict(list)
    skipped: list[str] = []
    for image in dicom.read_zip(path, skipped):
        if match := pattern.fullmatch(image.text("SeriesDescription")):
            by_series[match[1] or ""].append(image)
    if skipped:
        _warn(warnings, "a zip holds files that are not named .dcm, which were not read")
    return by_series


def _last_series(name: str, images: Slices, warnings: list[str]) -> Slices:
    """The last acquired series: a series is repeated when the first attempt failed."""
    series: dict[str, Slices] = defaultdict(list)
    for image in images:
        series[image.text("SeriesInstanceUID")].append(image)
    if len(series) > 1:
        _warn(warnings, f"{name}: a series was repeated, the last taken")

    def acquired(images: Slices) -> tuple[str, str, float]:
        first = images[0]
        return (
            first.text("SeriesDate") or first.text("StudyDate"),
            first.text("SeriesTime") or first.text("AcquisitionTime"),
            first.number("SeriesNumber") or 0,
        )

    return max(series.values(), key=acquired)


def _split_by_position(images: Slices) -> list[Slices]:
    """One list per position and orientation, ordered by the smallest instance number of each."""
    by_position: dict[tuple[float, ...], Slices] = defaultdict(list)
    for image in sorted(images, key=lambda i: i.number("InstanceNumber") or 0):
        by_position[tuple(np.round(np.concatenate(_position(image)), 3))].append(image)
    return list(by_position.values())


def _position(image: dicom.Image) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] in mm and orientation [6], LPS."""
    position, orientation = image.numbers("ImagePositionPatient", 3), image.numbers("ImageOrientationPatient", 6)
    if position is None or orientation is None:
        raise CohortError(f"{image.name}: no position or orientation of the slice; leave the subject out")
    return position, orientation


def _in_time_order(path: Path, plane: str, images: Slices, frames: int, warnings: list[str]) -> tuple[Slices, float]:
    """The `frames` images of a slice by trigger time, and the ms between them (0 where unknown).

    A repeated image is dropped. A missing frame is replaced by the one before it. Without usable
    trigger times the numbers of the frames order them.
    """
    times = [image.number("TriggerTime") for image in images]
    by_number = any(t is None for t in times) or (len(set(times)) == 1 and _differ(images))
    if by_number:
        times, interval = _numbers(path, plane, images), 0.0
        _warn(warnings, f"{plane}: no trigger times, frames ordered by number")
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
            f"{path}: {plane} has {len(kept)} frames of one slice, but its header says {frames}; leave the subject out"
        )
    if not by_number and len(kept) > 1:
        _check_times(path, plane, kept, frames, warnings)
    if len(kept) == frames:
        return [image for _, image in kept], interval
    return _fill_missing_frames(path, plane, kept, frames, warnings), interval


def _differ(images: Slices) -> bool:
    """Whether the images are frames of a cine, not one frame that is there several times."""
    return any(not np.array_equal(image.pixels(), images[0].pixels()) for image in images[1:])


def _numbers(path: Path, plane: str, images: Slices) -> list[float]:
    """The numbers of the frames of a slice.

    Raises CohortError where one has none, two have the same, or the times of trigger or
    acquisition, of the frames that have one, are in another order.
    """
    numbers = [image.number("InstanceNumber") for image in images]
    known = [n for n in numbers if n is not None]
    if len(set(known)) < len(numbers):
        raise CohortError(
            f"{path}: {plane} has frames without trigger times or numbers, so no order; leave the subject out"
        )
    ordered = sorted(zip(known, images, strict=True), key=lambda pair: pair[0])
    for keyword in ("TriggerTime", "AcquisitionTime"):
        times = [time for _, image in ordered if (time := image.number(keyword)) is not None]
        if times != sorted(times):
            raise CohortError(
                f"{path}: {plane} lacks trigger times, and its frames were acquired in another order than that of "
                "their numbers; leave the subject out"
            )
    return known


def _check_times(
    path: Path, plane: str, kept: list[tuple[float, dicom.Image]], frames: int, warnings: list[str]
) -> None:
    """Warns of trigger times of a slice that are unevenly spaced, although no frame is missing, or
    that contradict the numbers of the frames.

    Raises CohortError for both at once: a wrong time, such as 0 for none, has moved its frame.
    """
    intervals = np.diff([time for time, _ in kept])
    even = (np.abs(intervals - np.median(intervals)) <= _TOLERANCE_INTERVAL * np.median(intervals)).all()
    numbers = [n for _, image in kept if (n := image.number("InstanceNumber")) is not None]
    if numbers == sorted(numbers):
        if not even and len(kept) == frames:
            _warn(warnings, f"{plane}: trigger times are not evenly spaced")
    elif even:
        _warn(warnings, f"{plane}: trigger times order the frames otherwise than their numbers; the times count")
    else:
        raise CohortError(
            f"{path}: {plane} has trigger times that are not evenly spaced and order the frames of a slice otherwise "
            "than their numbers; leave the subject out"
        )


def _fill_missing_frames(
    path: Path, plane: str, kept: list[tuple[float, dicom.Image]], frames: int, warnings: list[str]
) -> Slices:
    """`frames` images, from fewer with their times: each missing one repeats the one before it.

    Raises CohortError where half of the frames or more are missing, or the times are not evenly
    spaced.
    """
    times = np.array([t for t, _ in kept])
    if len(kept) < max(2, frames // 2):
        raise CohortError(f"{path}: {plane} has {len(kept)} frames of {frames} of one slice; download it again")
    numbers = np.round((times - times[0]) / np.median(np.diff(times))).astype(int)
    if len(set(numbers)) < len(numbers) or numbers[-1] >= frames:
        raise CohortError(
            f"{path}: {plane} lacks frames of one slice, and the remaining ones are not evenly spaced; leave the subject out"
        )
    _warn(warnings, f"{plane}: missing frames repeat the ones before")
    latest = np.searchsorted(numbers, np.arange(frames), side="right") - 1
    return [kept[i][1] for i in latest]


def _affine(path: Path, plane: str, slices: list[Slices], warnings: list[str]) -> np.ndarray:
    """Voxel index -> mm, RAS+ (DICOM's LPS with x and y negated).

    The slice axis follows the positions of the slices. For a single slice it is the normal of a
    right-handed system, of length SpacingBetweenSlices, or else SliceThickness.
    """
    first = slices[0][0]
    positions = [_position(images[0]) for images in slices]
    position, orientation = positions[0]
    spacing = _pixel_spacing(path, plane, slices)
    cosines = orientation.reshape(2, 3) @ orientation.reshape(2, 3).T
    if np.abs(cosines - np.eye(2)).max() > _TOLERANCE_DIRECTIONS:
        raise CohortError(
            f"{path}: the directions of rows and columns of {plane} are not perpendicular or not of length 1; "
            "leave the subject out"
        )
    for (expected, _), images in zip(positions, slices, strict=True):
        for actual, direction in map(_position, images):
            if np.abs(direction - orientation).max() > _TOLERANCE_COSINE:
                raise CohortError(f"{path}: slices of {plane} are not parallel; leave the subject out")
            if np.abs(actual - expected).max() > _TOLERANCE_MM:
                raise CohortError(
                    f"{path}: frames of one slice of {plane} lie in different places; leave the subject out"
                )
    row_direction, column_direction = orientation[:3], orientation[3:]
    gap = first.number("SpacingBetweenSlices")
    if len(positions) > 1:
        steps = np.diff([p for p, _ in positions], axis=0)
        step = np.median(steps, axis=0)
        if np.abs(steps - step).max() > _TOLERANCE_MM or np.linalg.norm(step) < _TOLERANCE_MM:
            raise CohortError(
                f"{path}: slices of {plane} are not evenly spaced: one is missing, or moved; leave the subject out"
            )
        if gap is not None and abs(gap - np.linalg.norm(step)) > _TOLERANCE_MM:
            _warn(
                warnings, f"{plane}: slices lie otherwise apart than SpacingBetweenSlices says; their positions count"
            )
    else:
        depth = gap or first.number("SliceThickness")
        if not depth or depth <= 0:
            raise CohortError(
                f"{path}: {plane} has neither SpacingBetweenSlices nor SliceThickness; leave the subject out"
            )
        step = np.cross(row_direction, column_direction) * depth
    lps = np.eye(4)
    lps[:3] = np.stack([row_direction * spacing[1], column_direction * spacing[0], step, position], 1)
    shape = (int(first.number("Columns") or 1), int(first.number("Rows") or 1), len(slices))
    affine, notes = checked(path, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, shape)
    for note in notes:
        _warn(warnings, f"{plane}: {note}")
    # float32, as in a NIfTI file, so that converted and unconverted cohorts give the same records.
    return affine.astype(np.float32).astype(np.float64)


def _pixel_spacing(path: Path, plane: str, slices: list[Slices]) -> np.ndarray:
    """[2] in mm: between rows, and between columns. Raises CohortError where images differ."""
    spacings = [image.numbers("PixelSpacing", 2) for images in slices for image in images]
    first = spacings[0]
    if first is None or any(s is None or not (s > 0).all() for s in spacings):
        raise CohortError(f"{path}: {plane} has no valid PixelSpacing; leave the subject out")
    if not np.allclose([s for s in spacings if s is not None], first, rtol=1e-3):
        raise CohortError(f"{path}: images of {plane} have different PixelSpacing; leave the subject out")
    return first


def _warn(warnings: list[str], message: str) -> None:
    if message not in warnings:
        warnings.append(message)
