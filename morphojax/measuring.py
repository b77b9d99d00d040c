"""Table columns measured on the subjects' own labels (`prepare --measure`).

Every such column carries the leak "segmentation": it is computed from the label that a
segmentation of the same subject is scored against.
"""

from collections.abc import Mapping

import numpy as np

from morphojax.data.geometry import spacing_of
from morphojax.data.prepare.measured import Measured
from morphojax.data.sources.base import Frame, View
from morphojax.data.tables.schema import Column
from morphojax.evaluation import clinical

# Measure of `evaluation.clinical` -> its plane, and its `Column.measures`.
_MEASURES: Mapping[str, tuple[str, str]] = {
    "lv_edv_ml": ("sax", "lv_cavity:ED:ml"),
    "lv_esv_ml": ("sax", "lv_cavity:ES:ml"),
    "lv_sv_ml": ("sax", ""),
    "lv_ef_percent": ("sax", "lv_cavity:EF:%"),
    "lv_mass_g": ("sax", "lv_myocardium:ED:g"),
    "lv_wall_thickness_max_mm": ("sax", ""),
    "rv_edv_ml": ("sax", "rv_cavity:ED:ml"),
    "rv_esv_ml": ("sax", "rv_cavity:ES:ml"),
    "rv_sv_ml": ("sax", ""),
    "rv_ef_percent": ("sax", "rv_cavity:EF:%"),
    "la_volume_ed_ml": (clinical.BIPLANE, "la_cavity:ED:ml"),
    "la_volume_es_ml": (clinical.BIPLANE, "la_cavity:ES:ml"),
    "ra_volume_ed_ml": ("la_4ch", "ra_cavity:ED:ml"),
    "ra_volume_es_ml": ("la_4ch", "ra_cavity:ES:ml"),
}


def _column(name: str, measures: str) -> Column:
    title, _, unit = clinical.TITLE[name].rpartition(" (")
    return Column(
        f"measured_{name}",
        "continuous",
        "cardiac_morphometric",
        unit=unit.rstrip(")"),
        leak=("segmentation",),
        description=f"{title}, measured on the segmentation",
        measures=measures,
    )


def of_views(views: Mapping[str, View]) -> dict[str, float]:
    """Values by column name, from a subject's native labels; absent where not measurable."""
    stacks = {plane: (*_ed_and_es(view), view.labelled) for plane, view in views.items()}
    measures = clinical.of_heart({plane: s for plane, s in stacks.items() if s[0] or s[1]})
    values = {f"measured_{name}": measures.get((plane, name), np.nan) for name, (plane, _) in _MEASURES.items()}
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _ed_and_es(view: View) -> tuple[clinical.Stack | None, clinical.Stack | None]:
    by_phase = {frame.phase: _stack(frame) for frame in view.frames}
    return by_phase.get("ED"), by_phase.get("ES")


def _stack(frame: Frame) -> clinical.Stack | None:
    return None if frame.label is None else (frame.label, spacing_of(frame.affine))


MORPHOMETRICS = Measured(tuple(_column(name, measures) for name, (_, measures) in _MEASURES.items()), of_views)
