"""Checks that preparation, conversion and inspection share, and the error that they raise."""

import functools
from collections.abc import Sequence

import numpy as np

from morphojax import anatomy
from morphojax.data.errors import NamedError, printable
from morphojax.data.geometry import check_slices
from morphojax.data.sources.base import CohortError, Frame


class PrepareError(NamedError):
    """A cohort that cannot be prepared as asked. The message says what to do."""


def check_planes(planes: Sequence[str]) -> None:
    """Raises PrepareError unless there is at least one plane, and each is known and named once."""
    unknown = [p for p in planes if p not in anatomy.PLANES]
    if unknown or not planes or len(set(planes)) != len(planes):
        raise PrepareError(f"planes {list(planes)}: name each once among {', '.join(anatomy.PLANES)}")


def check_frame(plane: str, frame: Frame) -> None:
    """Raises CohortError where the image has several slices of a long axis, or the label holds a
    structure that the plane does not show.
    """
    try:
        check_slices(plane, frame.image.shape)
    except ValueError as error:
        raise CohortError(f"{plane} {frame.phase}: {error}") from None
    shown = [anatomy.BACKGROUND, *(anatomy.LABEL_ID[s] for s in anatomy.PLANE_STRUCTURES[plane])]
    # Nearly every label passes this comparison, which is faster than sorting the voxels.
    if frame.label is not None and not functools.reduce(np.logical_or, (frame.label == i for i in shown)).all():
        names = ", ".join(anatomy.STRUCTURES[i - 1] for i in np.setdiff1d(frame.label, shown))
        raise CohortError(f"{plane} {frame.phase}: the label holds {names}, which this plane does not show")


def describe_error(error: Exception) -> str:
    """What to report about a subject's files. The readers' own errors (ValueError, OSError) explain
    themselves; of others, the kind is named.
    """
    text = str(error)
    return printable(text if text and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}")
