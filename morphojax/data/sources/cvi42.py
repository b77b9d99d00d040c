"""Contours of a cvi42 workspace (`.cvi42wsx`, XML): item "ImageStates" -> an item per SOP instance UID -> "Contours" -> an item per
contour -> "Points" (Point:x along the columns, Point:y along the rows) and "SubpixelResolution", which the points are divided by.

The file is read as a stream and may define nothing: a document type, with which entities could grow without bound or name other files, is
refused.
"""

import dataclasses
import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from morphojax.data.sources.base import CohortError

# What a contour encloses. The epicardium encloses cavity and myocardium: what is painted over it is not myocardium.
STRUCTURES: Mapping[str, str] = {
    "sarvendocardialContour": "rv_cavity",
    "saepicardialContour": "lv_myocardium",
    "saepicardialOpenContour": "lv_myocardium",
    "saendocardialContour": "lv_cavity",
    "saendocardialOpenContour": "lv_cavity",
    "lalaContour": "la_cavity",
    "laraContour": "ra_cavity",
}
_LONGEST_NUMBER = 64  # characters
_DEEPEST = 256  # items within one another
_CHUNK = 1 << 20  # bytes
_ADVICE = "export the workspace from cvi42 again"


@dataclasses.dataclass(frozen=True)
class Contour:
    """One contour of one image. The last point is joined to the first by a straight line, which is also how an open contour ends.

    points: [N, 2] float64, column and row in pixels (`contours.CENTRE`); [0, 2] where no structure has that name.
    """

    name: str
    points: np.ndarray

    @property
    def structure(self) -> str | None:
        """One of anatomy.STRUCTURES, or None: not read."""
        return STRUCTURES.get(self.name)


def read_contours(path: str | Path) -> dict[str, tuple[Contour, ...]]:
    """SOP instance UID -> its contours, also those of names that are not read (`Contour.structure`); images without any are left out.

    Raises CohortError for a file that cannot be read in full, is no workspace, or defines a document type; for a point or resolution that
    is no number, a resolution that is absent or not above 0, fewer than three points, and two different contours of one name.
    """
    reading = _Reading(Path(path))
    try:
        with Path(path).open("rb") as file:
            while data := file.read(_CHUNK):
                reading.parser.Parse(data, False)
            reading.parser.Parse(b"", True)
    except CohortError:
        raise
    except (OSError, expat.ExpatError, ValueError, LookupError) as error:  # the last two: of an unknown encoding
        raise CohortError(f"{path}: cannot be read as XML ({error}); {_ADVICE}") from error
    if not reading.found_states:
        raise CohortError(f"{path}: holds no ImageStates; is it a cvi42 workspace?")
    return {uid: tuple(contours.values()) for uid, contours in reading.images.items() if contours}


# The part that an item plays follows from that of the item around it, and from its key.
_INSIDE: Mapping[str, Mapping[str | None, str]] = {
    "states": {None: "image"},
    "image": {"Contours": "contours"},
    "contours": {None: "contour"},
    "contour": {"Points": "points", "SubpixelResolution": "resolution"},
    "points": {None: "point"},
}


class _Reading:
    """The state of a stream of XML. `images`: UID -> name -> contour."""

    def __init__(self, path: Path):
        self.path, self.images, self.found_states = path, dict[str, dict[str, Contour]](), False
        self._parts: list[str] = []  # of the items that are open
        self._uid = self._name = ""
        self._points = array("d")
        self._point: dict[str, float] = {}
        self._resolution: float | None = None
        self._text: str | None = None
        self.parser = expat.ParserCreate()  # without namespaces: the prefixes are the format's own, declared or not
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse

    def _error(self, message: str) -> CohortError:
        return CohortError(f"{self.path}, line {self.parser.CurrentLineNumber}: {message}")

    def _refuse(self, *_: Any) -> None:
        raise self._error(f"defines a document type or an entity, which no workspace does; {_ADVICE}")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        key = next((value for name, value in attributes.items() if name.rpartition(":")[2] == "key"), None)
        around = self._parts[-1] if self._parts else ""
        part = _part(around, tag, key)
        self._parts.append(part)
        if len(self._parts) > _DEEPEST:
            raise self._error(f"items lie within one another more than {_DEEPEST} deep; {_ADVICE}")
        if part in ("image", "contour") and not key:
            raise self._error(f"an item of {around} has no key; {_ADVICE}")
        if part == "states":
            self.found_states = True
        elif part == "image":
            self._uid = key or ""
        elif part == "contour":
            self._name, self._points, self._resolution = key or "", array("d"), None
        elif part == "point":
            self._point = {}
        elif part in ("x", "y", "resolution"):
            self._text = ""

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text += text
            if len(self._text) > _LONGEST_NUMBER:
                raise self._error(f"a number has more than {_LONGEST_NUMBER} characters; {_ADVICE}")

    def _end(self, tag: str) -> None:
        part = self._parts.pop()
        if part in ("x", "y", "resolution"):
            number, self._text = self._number(part), None
            if part == "resolution":
                self._resolution = number
            elif part in self._point:
                raise self._error(f"a point has two {part}; {_ADVICE}")
            else:
                self._point[part] = number
        elif part == "point" and self._name in STRUCTURES:
            if len(self._point) < 2:
                raise self._error(f"a point of {self._name} lacks x or y; {_ADVICE}")
            self._points.extend((self._point["x"], self._point["y"]))
        elif part == "contour":
            self._keep()

    def _number(self, part: str) -> float:
        text = (self._text or "").strip()
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) and self._name in STRUCTURES:
            raise self._error(f"{part} of {self._name} is {text!r}, no number; {_ADVICE}")
        return number

    def _keep(self) -> None:
        points = np.array(self._points, np.float64).reshape(-1, 2)
        if self._name in STRUCTURES:
            if self._resolution is None or not self._resolution > 0:
                raise self._error(
                    f"SubpixelResolution of {self._name} is {self._resolution}, must be above 0; {_ADVICE}"
                )
            if len(points) < 3:
                raise self._error(f"{self._name} has {len(points)} points; draw it again in cvi42, or remove it there")
            with np.errstate(over="ignore"):
                points /= self._resolution
            if not np.isfinite(points).all():
                raise self._error(f"a point of {self._name} is infinite at SubpixelResolution {self._resolution}")
        image = self.images.setdefault(self._uid, {})
        if self._name in image and not np.array_equal(image[self._name].points, points):
            raise self._error(f"an image has two different contours {self._name}; remove one in cvi42")
        image[self._name] = Contour(self._name, points)


def _part(around: str, tag: str, key: str | None) -> str:
    if key == "ImageStates" and around not in ("states", "image", "contours", "contour", "points", "point"):
        return "states"
    if around == "point":
        name = tag.rpartition(":")[2]
        return name if name in ("x", "y") else ""
    inside = _INSIDE.get(around, {})
    return inside.get(key) or inside.get(None, "")
