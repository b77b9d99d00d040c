"""Clinical measures from label maps: volumes in mL, mass in g, fractions in %, thickness in mm.

Labels hold canonical ids (`anatomy.LABEL_ID`). A measure that cannot be computed is NaN, never 0.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from morphojax import anatomy

NAN = float("nan")
TITLE: Mapping[str, str] = {
    "lv_edv_ml": "LV EDV (mL)",
    "lv_esv_ml": "LV ESV (mL)",
    "lv_sv_ml": "LV SV (mL)",
    "lv_ef_percent": "LV EF (%)",
    "lv_co_l_min": "LV CO (L/min)",
    "lv_mass_g": "LV mass (g)",
    "lv_wall_thickness_max_mm": "maximum LV wall thickness (mm)",
    "rv_edv_ml": "RV EDV (mL)",
    "rv_esv_ml": "RV ESV (mL)",
    "rv_sv_ml": "RV SV (mL)",
    "rv_ef_percent": "RV EF (%)",
    "rv_co_l_min": "RV CO (L/min)",
    "la_volume_ed_ml": "LA volume, ED (mL)",
    "la_volume_es_ml": "LA volume, ES (mL)",
    "ra_volume_ed_ml": "RA volume, ED (mL)",
    "ra_volume_es_ml": "RA volume, ES (mL)",
}
BIPLANE = "biplane"  # used as the plane of measures that combine both long-axis planes
Stack = tuple[np.ndarray, Sequence[float]]  # label [X, Y, Z] of canonical ids, spacing [3] in mm


def volume_ml(label: np.ndarray, structure: str, spacing: Sequence[float]) -> float:
    """Volume of a structure. label [X, Y, Z]; spacing [3] in mm, along Z with the slice gap."""
    return np.count_nonzero(label == anatomy.LABEL_ID[structure]) * math.prod(map(float, spacing)) / 1000


def size(plane: str, label: np.ndarray, structure: str, spacing: Sequence[float]) -> tuple[float, str]:
    """Size and unit of a structure: volume in `ml`; in a long-axis plane, area in `cm2`."""
    unit = anatomy.size_unit(plane)
    depth = spacing[2] if unit == "ml" else 10.0  # mm: a millilitre is then a square centimetre
    return volume_ml(label, structure, (spacing[0], spacing[1], depth)), unit


def myocardial_mass_g(label: np.ndarray, spacing: Sequence[float]) -> float:
    """Myocardial volume at ED x 1.05 g/mL."""
    return volume_ml(label, "lv_myocardium", spacing) * anatomy.MYOCARDIUM_DENSITY_G_PER_ML


def function(edv_ml: float, esv_ml: float, heart_rate: float = NAN) -> dict[str, float]:
    """Stroke volume (mL), ejection fraction (%) and cardiac output (L/min).

    A volume of 0 mL means that the cavity was not segmented: the results are NaN.
    """
    if not (edv_ml > 0 and esv_ml > 0):
        return {"sv_ml": NAN, "ef_percent": NAN, "co_l_min": NAN}
    stroke = edv_ml - esv_ml
    output = stroke * heart_rate / 1000 if heart_rate > 0 else NAN
    return {"sv_ml": stroke, "ef_percent": 100 * stroke / edv_ml, "co_l_min": output}


def ventricular(
    ed: Stack | None, es: Stack | None, structures: Sequence[str], heart_rate: float = NAN
) -> dict[str, float]:
    """The measures of a short-axis stack that need only the given `structures`.

    ed, es: (label [X, Y, Z], spacing in mm), None if the phase is missing. Keys are those of
      `TITLE`.
    """
    out: dict[str, float] = {}
    for side in ("lv", "rv"):
        if f"{side}_cavity" not in structures:
            continue
        edv, esv = (NAN if x is None else volume_ml(x[0], f"{side}_cavity", x[1]) for x in (ed, es))
        out |= {f"{side}_edv_ml": edv, f"{side}_esv_ml": esv}
        out |= {f"{side}_{key}": value for key, value in function(edv, esv, heart_rate).items()}
    if "lv_myocardium" in structures:
        out["lv_mass_g"] = NAN if ed is None else myocardial_mass_g(*ed)
        if "lv_cavity" in structures:
            out["lv_wall_thickness_max_mm"] = NAN if ed is None else wall_thickness_max_mm(*ed)
    return out


def wall_thickness_max_mm(label: np.ndarray, spacing: Sequence[float]) -> float:
    """Maximum LV wall thickness over the slices with a cavity, in mm; NaN without such a slice.

    The thickness at a myocardial pixel next to the cavity is its distance to the nearest pixel
    outside the ventricle. Distances are between pixel centres; each centre lies half a pixel beyond
    its contour, and the two halves cancel. Measured in the plane, so the thickness of oblique walls
    is overestimated.
    """
    spacing_xy = tuple(map(float, spacing))[:2]
    cavity, wall = (label == anatomy.LABEL_ID[s] for s in ("lv_cavity", "lv_myocardium"))
    thickest = NAN
    for z in range(label.shape[2]):
        components, _ = ndimage.label(wall[..., z])
        # The largest component: papillary muscles in the cavity are components of their own.
        ring = components == 1 + np.argmax(np.bincount(components.ravel(), minlength=2)[1:])
        next_to_cavity = ndimage.binary_dilation(cavity[..., z]) & ring
        if next_to_cavity.any():
            inside = np.pad(ndimage.binary_fill_holes(cavity[..., z] | wall[..., z]), 1)  # outside the image is outside
            distance = np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing_xy))[1:-1, 1:-1]
            thickest = float(np.fmax(thickest, distance[next_to_cavity].max()))
    return thickest


def area_mm2(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Area of a [X, Y] mask in a long-axis plane; spacing [2 or more] in mm."""
    return float(np.count_nonzero(mask) * float(spacing[0]) * float(spacing[1]))


def length_mm(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Extent of a [X, Y] mask along its principal axis, in mm; NaN where empty.

    Used as the long axis of an atrium (valve to roof) because there are no landmarks. For an atrium
    that is wider than long it is the wrong axis.
    """
    pixel = np.asarray(spacing, float)[:2]
    points = np.argwhere(mask) * pixel
    if len(points) == 0:
        return NAN
    points = points - points.mean(0)
    axis = np.linalg.eigh(points.T @ points)[1][:, -1]
    along = points @ axis
    return float(np.ptp(along) + np.abs(axis) @ pixel)  # from edge to edge of the end pixels


def biplane_volume_ml(area_2ch_mm2: float, area_4ch_mm2: float, length_2ch_mm: float, length_4ch_mm: float) -> float:
    """Area-length volume from two long-axis planes: 8 / (3 pi) x A2 x A4 / mean length, in mL."""
    length = (length_2ch_mm + length_4ch_mm) / 2
    return 8 / (3 * math.pi) * area_2ch_mm2 * area_4ch_mm2 / length / 1000 if length > 0 else NAN


def single_plane_volume_ml(area: float, length: float) -> float:
    """Area-length volume from one plane: 8 A^2 / (3 pi L), in mL, from mm2 and mm."""
    return 8 * area**2 / (3 * math.pi * length) / 1000 if length > 0 else NAN


def _section(label: np.ndarray, structure: str, spacing: Sequence[float]) -> tuple[float, float]:
    mask = np.asarray(label).reshape(label.shape[:2]) == anatomy.LABEL_ID[structure]
    return area_mm2(mask, spacing), length_mm(mask, spacing)


def la_volume_ml(
    label_2ch: np.ndarray, spacing_2ch: Sequence[float], label_4ch: np.ndarray, spacing_4ch: Sequence[float]
) -> float:
    """Biplane left atrial volume from labels [X, Y(, 1)] of one phase; NaN if one is missing."""
    (area2, length2), (area4, length4) = (
        _section(label, "la_cavity", spacing) for label, spacing in ((label_2ch, spacing_2ch), (label_4ch, spacing_4ch))
    )
    return biplane_volume_ml(area2, area4, length2, length4)


def ra_volume_ml(label_4ch: np.ndarray, spacing: Sequence[float]) -> float:
    """Single-plane right atrial volume from the 4-chamber label [X, Y(, 1)]; NaN if missing."""
    return single_plane_volume_ml(*_section(label_4ch, "ra_cavity", spacing))


def atrial(ed: Stack | None, es: Stack | None, structures: Sequence[str]) -> dict[str, float]:
    """Area-length volumes of the atria among `structures` in a long-axis plane; keys of `TITLE`."""
    out = {}
    for side in ("la", "ra"):
        if f"{side}_cavity" in structures:
            for phase, stack in (("ed", ed), ("es", es)):
                section = None if stack is None else _section(stack[0], f"{side}_cavity", stack[1])
                out[f"{side}_volume_{phase}_ml"] = NAN if section is None else single_plane_volume_ml(*section)
    return out


def measures(
    plane: str, ed: Stack | None, es: Stack | None, structures: Sequence[str], heart_rate: float = NAN
) -> dict[str, float]:
    """The measures of a plane: `ventricular` for the short axis, `atrial` for a long axis."""
    return ventricular(ed, es, structures, heart_rate) if plane == "sax" else atrial(ed, es, structures)


def of_heart(
    views: Mapping[str, tuple[Stack | None, Stack | None, Sequence[str]]], heart_rate: float = NAN
) -> dict[tuple[str, str], float]:
    """All measures of a subject, by plane (or BIPLANE) and name of the measure.

    views: plane -> ED, ES and the structures that were annotated or predicted, as in `ventricular`.
    """
    values = {
        (plane, name): value
        for plane, view in views.items()
        for name, value in measures(plane, *view, heart_rate).items()
    }
    if all(plane in views and "la_cavity" in views[plane][2] for plane in anatomy.LONG_AXIS):
        (two_ed, two_es, _), (four_ed, four_es, _) = (views[plane] for plane in anatomy.LONG_AXIS)
        for phase, two, four in (("ed", two_ed, four_ed), ("es", two_es, four_es)):
            volume = NAN if two is None or four is None else la_volume_ml(*two, *four)
            values[BIPLANE, f"la_volume_{phase}_ml"] = volume
    return values
