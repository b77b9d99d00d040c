"""The plane that an image shows: asked for, and checked against the file's name and shape."""

import re
from collections.abc import Sequence
from pathlib import Path

from morphojax import anatomy
from morphojax.inference.measures import PredictError
from morphojax.inference.quality import DEPTH_MM
from morphojax.inference.segmenter import Run

# Parts of a file's name between letters of other words: `sa_ED`, `heart-LAX`, `lax_4ch`, `2CH3`.
_SHORT_AXIS = re.compile(r"(?<![a-z])(sax?|shax|short[-_ ]?axis)(?![a-z])")
_LONG_AXIS = re.compile(r"(?<![a-z])(lax?|long[-_ ]?axis)(?![a-z])")
_CHAMBERS = re.compile(r"(?<!\d)([2345])[-_ ]?ch(?:ambers?)?(?![a-z])")


def choose_plane(run: Run, plane: str | None) -> str:
    """The plane of the images: --plane, or that of a run of a single plane.

    Raises PredictError for a plane that the run does not segment.
    """
    if plane is None and len(run.planes) == 1:
        return run.planes[0]
    if plane not in run.planes:
        raise PredictError(
            f"--plane={plane}: the run segments {', '.join(run.planes)}; give the plane that the images show"
        )
    return plane


def named_plane(name: str) -> str | None:
    """The plane that a file's name states: `sax`, `la`, `la_2ch`, `la_3ch`, `la_4ch` or `la_5ch`.

    None where it states none, or both a short and a long axis.
    """
    lowered = name.lower()
    chambers = set(_CHAMBERS.findall(lowered))
    if _SHORT_AXIS.search(lowered):
        return None if chambers or _LONG_AXIS.search(lowered) else "sax"
    if len(chambers) == 1:
        return f"la_{chambers.pop()}ch"
    return "la" if chambers or _LONG_AXIS.search(lowered) else None


def check_plane(path: Path, name: str, plane: str, shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Raises PredictError, naming the file, where its name or its shape contradicts the plane.

    Args:
        name: of the file, without suffix.
        plane: that the run segments, which the user did not state.
        shape, spacing: of the image [X, Y, Z]; the spacing in mm.
    """
    reason = _contradiction(name, plane, shape[2], float(spacing[2]))
    if reason:
        raise PredictError(f"{path}: {reason}; if it shows {plane}, say so with --plane={plane}")


def _contradiction(name: str, plane: str, slices: int, spacing: float) -> str | None:
    if plane != "sax" and slices != 1:
        return None  # refused in any case: geometry.check_slices
    named = named_plane(name)
    if named and named != plane and not (named == "la" and plane in anatomy.LONG_AXIS):
        shown = {"sax": "a short axis", "la": "a long axis"}.get(named, named)
        return f"its name says {shown}, and the run segments {plane}"
    if plane != "sax":
        return None
    if slices == 1:
        return "a single slice, and the run segments short-axis stacks: it may be a long axis"
    low, high = DEPTH_MM
    depth = f"{slices} slices of {spacing:g} mm are {slices * spacing:g} mm deep"
    if slices * spacing < low:
        return f"{depth}, and a short-axis stack is at least {low:g} mm: it may be a long axis"
    if slices * spacing > high:
        return f"{depth}, and a short-axis stack at most {high:g} mm: a cine has axes X, Y, Z, T"
    return None
