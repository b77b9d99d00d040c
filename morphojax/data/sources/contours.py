"""Contours -> label maps.

A pixel belongs to a structure if the contour covers more than half of it, measured at 5 x 5 sample
points. Filling every pixel that the line touches would make a heart 5 to 10 % larger. 5 is odd, so
that no pixel is covered by exactly half.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.cvi42 import Contour

# The coordinate of the centre of the first pixel. We assume that whole numbers are pixel centres,
# as the public pipeline of Bai et al. does. Measured from the corner of that pixel, it would be
# 0.5.
CENTRE = 0.0
SAMPLES = 5  # along each side of a pixel
MAX_OUTSIDE = 1.0  # pixels by which a contour may leave its image
# A contour may cross itself over the larger of these areas, as a small loop of the pen does. Beyond
# that, its inside is ambiguous.
CROSSING_PIXELS, CROSSING_FRACTION = 1.0, 0.01
# Later structures are painted over earlier ones.
ORDER = ("rv_cavity", "lv_myocardium", "lv_cavity", "la_cavity", "ra_cavity")


def fill(contour: Contour, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The mask bool [rows, columns] of a contour, and the area in pixels where it crosses itself.

    The area counts samples whose winding number is neither 0 nor the more frequent of -1 and 1.
    Raises CohortError for a contour that leaves the image, or crosses itself beyond the limits.
    """
    points = contour.points - CENTRE
    mask = np.zeros(shape, bool)
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < -0.5 - MAX_OUTSIDE).any() or (high > np.array(shape[::-1]) - 0.5 + MAX_OUTSIDE).any():
        raise CohortError(
            f"{contour.name} leaves its image of {shape[1]} columns and {shape[0]} rows; does it belong to another series?"
        )
    first = np.maximum(np.floor(low + 0.5).astype(int), 0)  # the bounding box of the contour, in pixels
    count = np.minimum(np.floor(high + 0.5).astype(int) + 1, shape[::-1]) - first
    if (count < 1).any():
        return mask, 0.0
    winding = _winding((points - first + 0.5) * SAMPLES - 0.5, (int(count[1]) * SAMPLES, int(count[0]) * SAMPLES))
    enclosed = winding != 0
    once = max(np.count_nonzero(winding == sign) for sign in (-1, 1))
    crossing = (np.count_nonzero(enclosed) - once) / SAMPLES**2
    if crossing > CROSSING_PIXELS and crossing > CROSSING_FRACTION * np.count_nonzero(enclosed) / SAMPLES**2:
        raise CohortError(f"{contour.name} crosses itself over {crossing:.3g} pixels; draw it again in cvi42")
    covered = enclosed.reshape(count[1], SAMPLES, count[0], SAMPLES).sum(axis=(1, 3))
    mask[first[1] : first[1] + count[1], first[0] : first[0] + count[0]] = 2 * covered > SAMPLES**2
    return mask, crossing


def _winding(points: np.ndarray, count: tuple[int, int]) -> np.ndarray:
    """The winding number of a polygon around each sample point: int [rows, columns].

    points: [N, 2], column and row; sample (r, c) lies at column c and row r. A sample on the line
        is inside on the left and top of the polygon, and outside on the right and bottom.
    """
    rows, columns = count
    start, end = points, np.roll(points, -1, axis=0)
    sign = np.sign(end[:, 1] - start[:, 1]).astype(int)
    # The rows of samples that an edge crosses: from its upper end, up to but excluding its lower
    # end.
    upper, lower = (
        np.clip(np.ceil(pick(start[:, 1], end[:, 1])), 0, rows).astype(int) for pick in (np.minimum, np.maximum)
    )
    crossed = lower - upper
    edge = np.repeat(np.arange(len(points)), crossed)
    row = np.arange(crossed.sum()) + np.repeat(upper - np.cumsum(crossed) + crossed, crossed)
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = x0 + (row - y0) * ((x1 - x0) / (y1 - y0))
    steps = np.zeros((rows, columns + 1), int)
    np.add.at(steps, (row, np.clip(np.ceil(x), 0, columns).astype(int)), sign[edge])
    return steps.cumsum(axis=1)[:, :-1]


def rasterise(
    contours: Sequence[Contour], shape: tuple[int, int], structures: Sequence[str] = anatomy.STRUCTURES
) -> np.ndarray:
    """The label of one image: uint8 [rows, columns] of canonical ids, with `structures` only.

    Raises CohortError as `fill` does.
    """
    return _paint(contours, shape, structures)[0]


def _paint(contours: Sequence[Contour], shape: tuple[int, int], structures: Sequence[str]) -> tuple[np.ndarray, float]:
    """The label of `rasterise`, and the area in pixels where contours cross themselves."""
    label, crossing = np.zeros(shape, np.uint8), 0.0
    for structure in ORDER:
        for contour in contours:
            if contour.structure == structure:
                mask, crossed = fill(contour, shape)
                label[mask] = anatomy.LABEL_ID[structure]
                crossing += crossed
    label[~np.isin(label, [anatomy.LABEL_ID[s] for s in structures])] = anatomy.BACKGROUND
    return label, crossing


@dataclasses.dataclass(frozen=True)
class Labels:
    """The annotation of one series.

    frames:   in time order, uint8 [X, Y, Z] of canonical ids, X the column and Y the row; None
        where a frame is not annotated.
    labelled: the structures that are annotated in every annotated frame.
    warnings: assumptions that were made.
    """

    frames: tuple[np.ndarray | None, ...]
    labelled: tuple[str, ...]
    warnings: tuple[str, ...]


def labels_for(
    path: Path,
    uids: Sequence[Sequence[str]],
    contours: Mapping[str, Sequence[Contour]],
    shape: tuple[int, int],
    structures: Sequence[str] = anatomy.STRUCTURES,
) -> Labels:
    """Labels of a series of images with the SOP instance UIDs [Z][T] and `shape` (rows, columns).

    A structure counts as annotated if more than half of the annotated frames contain it. A frame
    that lacks one of these counts as not annotated, so that an undrawn structure never becomes
    background.

    path: the file of the contours, for messages. Raises CohortError as `fill` does, and for a frame
        with an epicardium but no endocardium, because its cavity would become myocardium.
    """
    by_frame = [[tuple(contours.get(uid, ())) for uid in frame] for frame in zip(*uids, strict=True)]
    drawn = [{c.structure for image in frame for c in image} & set(structures) for frame in by_frame]
    annotated = [t for t, frame_structures in enumerate(drawn) if frame_structures]
    counts = Counter(s for t in annotated for s in drawn[t])
    labelled = tuple(s for s in anatomy.STRUCTURES if 2 * counts[s] > len(annotated))
    frames: list[np.ndarray | None] = [None] * len(by_frame)
    crossing = 0.0
    for t in annotated:
        if not labelled or not drawn[t].issuperset(labelled):
            continue
        if "lv_myocardium" in labelled and not any(c.structure == "lv_cavity" for image in by_frame[t] for c in image):
            raise CohortError(f"{path}: frame {t} (from 0) has an epicardium but no endocardium; draw both or neither")
        slices = []
        for z, image in enumerate(by_frame[t]):
            try:
                label, crossed = _paint(image, shape, labelled)
            except CohortError as error:
                raise CohortError(f"{path}: slice {z}, frame {t} (from 0): {error}") from error
            slices.append(label.T)
            crossing += crossed
        frames[t] = np.stack(slices, axis=-1)
    warnings = ["contours that cross themselves by less than a pixel or 1 %"] if crossing > 0 else []
    if any(drawn[t] != set(labelled) for t in annotated):
        warnings.append("contours of some structures in some frames only: not used")
    return Labels(tuple(frames), labelled, tuple(warnings))


def unplaced(contours: Mapping[str, Sequence[Contour]], uids: Iterable[str], kinds: Sequence[str]) -> tuple[str, ...]:
    """A warning if contours belong to images that were not read, else nothing.

    uids: of the images that were read. kinds: the beginnings ("sa", "la") of the contour names to
    check, those whose images were all meant to be read.
    """
    unread = set(contours).difference(uids)
    unused = any(c.structure and c.name.startswith(tuple(kinds)) for uid in unread for c in contours[uid])
    return ("contours of images that are not there: not used",) if unused else ()
