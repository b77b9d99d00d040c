"""Contours of a cvi42 workspace (`.cvi42wsx`, XML).

Items lie within one another:
"ImageStates" -> one item per SOP instance UID -> "Contours" -> one item per contour -> "Points" and
"SubpixelResolution". Point:x is the column and Point:y the row, both multiplied by the resolution.

The file is read as a stream. A document type is refused, because its entities could expand without
bound or include other files.
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

# Contour name -> the structure that it encloses. The epicardium encloses the cavity too, which is
# painted over the myocardium.
STRUCTURES: Mapping[str, str] = {
    "sarvendocardialContour": "rv_cavity",
    "saepicardialContour": "lv_myocardium",
    "saepicardialOpenContour": "lv_myocardium",
    "saendocardialContour": "lv_cavity",
    "saendocardialOpenContour": "lv_cavity",
    "lalaContour": "la_cavity",
    "laraContour": "ra_cavity",
}
_MAX_NUMBER_LENGTH = 64  # characters
_MAX_DEPTH = 256  # of nested items
_MAX_POINTS = 10_000  # of a contour; cvi42 draws some hundred
_CHUNK = 1 << 20  # bytes
_ADVICE = "export the workspace from cvi42 again"


@dataclasses.dataclass(frozen=True)
class Contour:
    """One contour of one image. A straight line closes it, also where cvi42 calls it open.

    points: [N, 2] float64, column and row in pixels (`contours.CENTRE`); [0, 2] for an unused name.
    """

    name: str
    points: np.ndarray

    @property
    def structure(self) -> str | None:
        """One of anatomy.STRUCTURES; None for a name that is not used."""
        return STRUCTURES.get(self.name)


def read_contours(path: str | Path) -> dict[str, tuple[Contour, ...]]:
    """SOP instance UID -> its contours, including unused ones; images without any are left out.

    Raises CohortError for a file that is truncated, not a workspace or defines a document type; for
    a point or resolution that is not a number, a resolution that is absent or not above 0, fewer
    than three points, and two different contours of one name.
    """
    parser = _WorkspaceParser(Path(path))
    try:
        with Path(path).open("rb") as file:
            while data := file.read(_CHUNK):
                parser.expat.Parse(data, False)
            parser.expat.Parse(b"", True)
    except CohortError:
        raise
    # ValueError and LookupError come from an unknown encoding.
    except (OSError, expat.ExpatError, ValueError, LookupError) as error:
        raise CohortError(f"{path}: cannot be read as XML ({error}); {_ADVICE}") from error
    if not parser.found_states:
        raise CohortError(f"{path}: contains no ImageStates; is it a cvi42 workspace?")
    return {uid: tuple(contours.values()) for uid, contours in parser.images.items() if contours}


# Role of the parent item -> key of an item (None: any other key) -> role of that item.
_ROLES: Mapping[str, Mapping[str | None, str]] = {
    "states": {None: "image"},
    "image": {"Contours": "contours"},
    "contours": {None: "contour"},
    "contour": {"Points": "points", "SubpixelResolution": "resolution"},
    "points": {None: "point"},
}


class _WorkspaceParser:
    """Reads a stream of XML. `images`: UID -> name -> contour."""

    def __init__(self, path: Path):
        self.path, self.images, self.found_states = path, dict[str, dict[str, Contour]](), False
        self._open_roles: list[str] = []  # roles of the items around the current position
        self._uid = self._name = ""
        self._points = array("d")
        self._point: dict[str, float] = {}
        self._resolution: float | None = None
        self._text: str | None = None
        self.expat = expat.ParserCreate()  # without namespaces: some workspaces do not declare their prefixes
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._characters
        self.expat.StartDoctypeDeclHandler = self._refuse
        self.expat.EntityDeclHandler = self._refuse

    def _error(self, message: str) -> CohortError:
        return CohortError(f"{self.path}, line {self.expat.CurrentLineNumber}: {message}")

    def _refuse(self, *_: Any) -> None:
        raise self._error(f"defines a document type or an entity, which no workspace does; {_ADVICE}")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        key = next((value for name, value in attributes.items() if name.rpartition(":")[2] == "key"), None)
        parent = self._open_roles[-1] if self._open_roles else ""
        role = _role(parent, tag, key)
        self._open_roles.append(role)
        if len(self._open_roles) > _MAX_DEPTH:
            raise self._error(f"items are nested more than {_MAX_DEPTH} deep; {_ADVICE}")
        if role in ("image", "contour") and not key:
            raise self._error(f"an item of {parent} has no key; {_ADVICE}")
        if role == "states":
            self.found_states = True
        elif role == "image":
            self._uid = key or ""
        elif role == "contour":
            self._name, self._points, self._resolution = key or "", array("d"), None
        elif role == "point":
            self._point = {}
        elif role in ("x", "y", "resolution"):
            self._text = ""

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text += text
            if len(self._text) > _MAX_NUMBER_LENGTH:
                raise self._error(f"a number has more than {_MAX_NUMBER_LENGTH} characters; {_ADVICE}")

    def _end(self, tag: str) -> None:
        role = self._open_roles.pop()
        if role in ("x", "y", "resolution"):
            number, self._text = self._number(role), None
            if role == "resolution":
                self._resolution = number
            elif role in self._point:
                raise self._error(f"a point has two {role}; {_ADVICE}")
            else:
                self._point[role] = number
        elif role == "point" and self._name in STRUCTURES:
            if len(self._point) < 2:
                raise self._error(f"a point of {self._name} lacks x or y; {_ADVICE}")
            self._points.extend((self._point["x"], self._point["y"]))
            if len(self._points) > 2 * _MAX_POINTS:
                raise self._error(f"{self._name} has more than {_MAX_POINTS} points; {_ADVICE}")
        elif role == "contour":
            self._keep()

    def _number(self, role: str) -> float:
        """The current text as a number; NaN for other text in a contour of an unused name."""
        text = (self._text or "").strip()
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) and self._name in STRUCTURES:
            raise self._error(f"{role} of {self._name} is {text!r}, not a number; {_ADVICE}")
        return number

    def _keep(self) -> None:
        """Checks the contour that has ended, and adds it to `images`."""
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
                raise self._error(
                    f"a point of {self._name} is infinite at SubpixelResolution {self._resolution}; {_ADVICE}"
                )
        image = self.images.setdefault(self._uid, {})
        if self._name in image and not np.array_equal(image[self._name].points, points):
            raise self._error(f"an image has two different contours {self._name}; remove one in cvi42")
        image[self._name] = Contour(self._name, points)


def _role(parent: str, tag: str, key: str | None) -> str:
    """The role of an item, by its parent's role and its key or tag; "" for an unused item."""
    if key == "ImageStates" and parent not in ("states", "image", "contours", "contour", "points", "point"):
        return "states"
    if parent == "point":
        name = tag.rpartition(":")[2]
        return name if name in ("x", "y") else ""
    roles = _ROLES.get(parent, {})
    return roles.get(key) or roles.get(None, "")
