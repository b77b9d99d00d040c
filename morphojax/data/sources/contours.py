"""Contours -> label maps.

A pixel belongs to a structure where the contour covers more than half of it, by 5 x 5 sample points: filling whole pixels along the line
instead would make a heart 5 to 10 % larger. 5 is odd, so that no pixel is covered exactly by half.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from morphojax import anatomy
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.cvi42 import Contour

# Where the centre of the first pixel lies in the coordinates of the points. That whole numbers are centres is an assumption, which the
# public pipeline of Bai et al. shares; for files that count from the corner of the first pixel it would be 0.5.
CENTRE = 0.0
SAMPLES = 5  # along each side of a pixel
OUTSIDE = 1.0  # pixels by which a contour may leave its image
# A loop of the pen is as good as no loop; a contour that crosses itself over more than this is not to be guessed at.
CROSSING_PIXELS, CROSSING_SHARE = 1.0, 0.01
# Later ones are painted over earlier ones.
ORDER = ("rv_cavity", "lv_myocardium", "lv_cavity", "la_cavity", "ra_cavity")


def fill(contour: Contour, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The mask bool [rows, columns] of what a contour encloses, and the pixels (a float) that it winds round otherwise than once.

    Raises CohortError for a contour that leaves the image, or crosses itself so much that it cannot be told what it encloses.
    """
    points = contour.points - CENTRE
    mask = np.zeros(shape, bool)
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < -0.5 - OUTSIDE).any() or (high > np.array(shape[::-1]) - 0.5 + OUTSIDE).any():
        raise CohortError(
            f"{contour.name} leaves its image of {shape[1]} columns and {shape[0]} rows; is it of another series?"
        )
    first = np.maximum(np.floor(low + 0.5).astype(int), 0)  # the pixels around it
    count = np.minimum(np.floor(high + 0.5).astype(int) + 1, shape[::-1]) - first
    if (count < 1).any():
        return mask, 0.0
    winding = _winding((points - first + 0.5) * SAMPLES - 0.5, (int(count[1]) * SAMPLES, int(count[0]) * SAMPLES))
    enclosed = winding != 0
    once = max(np.count_nonzero(winding == sign) for sign in (-1, 1))
    crossing = (np.count_nonzero(enclosed) - once) / SAMPLES**2
    if crossing > CROSSING_PIXELS and crossing > CROSSING_SHARE * np.count_nonzero(enclosed) / SAMPLES**2:
        raise CohortError(f"{contour.name} crosses itself, over {crossing:.3g} pixels; draw it again in cvi42")
    covered = enclosed.reshape(count[1], SAMPLES, count[0], SAMPLES).sum(axis=(1, 3))
    mask[first[1] : first[1] + count[1], first[0] : first[0] + count[0]] = 2 * covered > SAMPLES**2
    return mask, crossing


def _winding(points: np.ndarray, count: tuple[int, int]) -> np.ndarray:
    """How often a polygon winds round each of rows x columns sample points, int [rows, columns]. points: [N, 2], column and row, in steps
    of the samples, of which the first is 0. A sample on the line is inside on the left and top of the polygon, outside on the others."""
    rows, columns = count
    start, end = points, np.roll(points, -1, axis=0)
    sign = np.sign(end[:, 1] - start[:, 1]).astype(int)
    # The rows of samples that an edge crosses: those from the upper end on, up to but without the lower end.
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
    """Label uint8 [rows, columns] of one image, canonical ids, of the structures named, the rest background. Raises as `fill` does."""
    return _paint(contours, shape, structures)[0]


def _paint(contours: Sequence[Contour], shape: tuple[int, int], structures: Sequence[str]) -> tuple[np.ndarray, float]:
    """As `rasterise`, and the pixels over which contours cross themselves."""
    label, crossing = np.zeros(shape, np.uint8), 0.0
    for structure in ORDER:
        for contour in contours:
            if contour.structure == structure:
                mask, over = fill(contour, shape)
                label[mask] = anatomy.LABEL_ID[structure]
                crossing += over
    label[~np.isin(label, [anatomy.LABEL_ID[s] for s in structures])] = anatomy.BACKGROUND
    return label, crossing


@dataclasses.dataclass(frozen=True)
class Labels:
    """What was drawn in one series. frames: by time, uint8 [X, Y, Z] of canonical ids, X the column and Y the row, or None where a frame
    is not annotated; labelled: the structures that are annotated in all frames that are; warnings: what had to be assumed."""

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
    """Labels of a series whose images have the SOP instance UIDs [Z][T] and `shape` (rows, columns).

    Of the structures, those that more than half of the annotated frames have are labelled, and a frame that lacks one of them counts as not
    annotated: nothing that was not drawn becomes background. path: of the contours, for messages. Raises CohortError as `fill` does, and
    for a frame with an epicardium in which no endocardium was drawn, as that would make the cavity myocardium.
    """
    columns = [[tuple(contours.get(uid, ())) for uid in frame] for frame in zip(*uids, strict=True)]
    drawn = [{c.structure for image in frame for c in image} & set(structures) for frame in columns]
    annotated = [t for t, found in enumerate(drawn) if found]
    votes = Counter(s for t in annotated for s in drawn[t])
    labelled = tuple(s for s in anatomy.STRUCTURES if 2 * votes[s] > len(annotated))
    frames: list[np.ndarray | None] = [None] * len(columns)
    crossing = 0.0
    for t in annotated:
        if not labelled or not drawn[t].issuperset(labelled):
            continue
        if "lv_myocardium" in labelled and not any(c.structure == "lv_cavity" for image in columns[t] for c in image):
            raise CohortError(f"{path}: frame {t} (from 0) has an epicardium but no endocardium; draw both or neither")
        images = []
        for z, image in enumerate(columns[t]):
            try:
                label, over = _paint(image, shape, labelled)
            except CohortError as error:
                raise CohortError(f"{path}: slice {z}, frame {t} (from 0): {error}") from error
            images.append(label.T)
            crossing += over
        frames[t] = np.stack(images, axis=-1)
    warnings = ["contours that cross themselves by less than a pixel or 1 %"] if crossing > 0 else []
    if any(drawn[t] != set(labelled) for t in annotated):
        warnings.append("contours of some structures in some frames only: not used")
    return Labels(tuple(frames), labelled, tuple(warnings))


def unplaced(contours: Mapping[str, Sequence[Contour]], uids: Iterable[str], kinds: Sequence[str]) -> tuple[str, ...]:
    """The warning that there are contours of images that were not read, if there are. uids: of all of a subject's images that were; kinds:
    how the names of those contours begin of which all images should be ("sa", "la")."""
    missing = set(contours).difference(uids)
    lost = any(c.structure and c.name.startswith(tuple(kinds)) for u in missing for c in contours[u])
    return ("contours of images that are not there: not used",) if lost else ()
