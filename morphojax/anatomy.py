"""Planes, phases and structures of the heart, and the label numbers of each cohort.

Canonical label ids are those of the UK Biobank four-chamber convention. They are the same in every
plane.
"""

import dataclasses
import re
from collections.abc import Mapping

PLANES = ("sax", "la_2ch", "la_4ch")
PHASES = ("ED", "mid", "ES")  # the frames kept of every cine; as channels, in this order
CINE = "cine"  # in a list of phases: the other frames kept of a cine, see `cine_phase`

BACKGROUND = 0
STRUCTURES = ("lv_cavity", "lv_myocardium", "rv_cavity", "la_cavity", "ra_cavity")  # canonical ids 1..5
LABEL_ID: Mapping[str, int] = {name: i + 1 for i, name in enumerate(STRUCTURES)}
LABEL_NAME: Mapping[str, str] = {
    "lv_cavity": "LV cavity",
    "lv_myocardium": "LV myocardium",
    "rv_cavity": "RV cavity",
    "la_cavity": "LA cavity",
    "ra_cavity": "RA cavity",
}
# Okabe-Ito colours: colour-blind readers can distinguish them, and they stand out on a grey image.
COLOUR: Mapping[str, tuple[int, int, int]] = {
    "lv_cavity": (213, 94, 0),
    "lv_myocardium": (0, 158, 115),
    "rv_cavity": (0, 114, 178),
    "la_cavity": (240, 228, 66),
    "ra_cavity": (204, 121, 167),
}
PLANE_STRUCTURES: Mapping[str, tuple[str, ...]] = {
    "sax": ("lv_cavity", "lv_myocardium", "rv_cavity"),
    "la_2ch": ("lv_cavity", "lv_myocardium", "la_cavity"),
    "la_4ch": STRUCTURES,
}
LONG_AXIS = ("la_2ch", "la_4ch")  # planes of one slice
MYOCARDIUM_DENSITY_G_PER_ML = 1.05


def parse_planes(spec: str) -> tuple[str, ...]:
    """The planes of a list such as "sax,la_4ch", in the order of PLANES.

    Raises ValueError for an unknown or repeated plane, and for an empty list.
    """
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if not names or set(names) - set(PLANES) or len(set(names)) < len(names):
        raise ValueError(f"planes {spec!r}: name each once among {', '.join(PLANES)}, separated by commas")
    return tuple(plane for plane in PLANES if plane in names)


def cine_phase(frame: int) -> str:
    """The phase of a frame by its number, from 0: 7 -> "t007". Raises ValueError above 999."""
    if not 0 <= frame < 1000:
        raise ValueError(f"frame {frame} of a cine: a cine has at most 1000 frames, numbered from 0")
    return f"t{frame:03d}"


def is_cine_phase(phase: str) -> bool:
    """Whether the phase is one of `cine_phase`."""
    return re.fullmatch(r"t\d{3}", phase) is not None


@dataclasses.dataclass(frozen=True)
class Convention:
    """Label numbers on disk -> structure names.

    Other structures are not annotated: they may be in the background.
    """

    name: str
    structures: Mapping[int, str]

    @property
    def labelled(self) -> tuple[str, ...]:
        """The annotated structures, in canonical order."""
        present = set(self.structures.values())
        return tuple(s for s in STRUCTURES if s in present)

    def to_canonical(self) -> dict[int, int]:
        return {BACKGROUND: BACKGROUND} | {disk: LABEL_ID[name] for disk, name in self.structures.items()}

    def from_canonical(self) -> dict[int, int]:
        return {canonical: disk for disk, canonical in self.to_canonical().items()}


CONVENTIONS: Mapping[str, Convention] = {
    c.name: c
    for c in (
        Convention("canonical", {i: s for s, i in LABEL_ID.items()}),
        Convention("ukb_sax", {1: "lv_cavity", 2: "lv_myocardium", 3: "rv_cavity"}),
        Convention("ukb_la_2ch", {1: "la_cavity"}),
        Convention("ukb_la_4ch", {1: "la_cavity", 2: "ra_cavity"}),
        Convention("acdc", {1: "rv_cavity", 2: "lv_myocardium", 3: "lv_cavity"}),
        Convention("sunnybrook", {1: "lv_cavity"}),
        Convention("mnms", {1: "lv_cavity", 2: "lv_myocardium", 3: "rv_cavity"}),
        Convention("mnms2", {1: "lv_cavity", 2: "lv_myocardium", 3: "rv_cavity"}),
    )
}


def size_unit(plane: str) -> str:
    """Of the size of a structure: `ml` in a stack, `cm2` in a plane of one slice."""
    return "cm2" if plane in LONG_AXIS else "ml"
