"""What looks wrong in the findings of an inspection: for a person to look at, not an error."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from morphojax import anatomy
from morphojax.data.inspection.survey import Findings
from morphojax.data.tables.cells import OUTLIER_SD

_MIN_VALUES = 5  # with fewer values there are no outliers
_TOLERANCE = 0.3  # a value within this fraction of the median is never an outlier
_MEASURES = {
    "x": "pixels along X",
    "y": "pixels along Y",
    "slices": "slices",
    "spacing_x_mm": "mm in plane",
    "slice_gap_mm": "mm between slices",
}
# mL at ED, of hearts of adults, normal and diseased. Where the median is outside, the spacing or
# its unit is wrong in the whole cohort.
_PLAUSIBLE_ML = {"lv_cavity": (30, 600), "rv_cavity": (30, 700), "lv_myocardium": (30, 500)}
_SAME_AT_ALL_PHASES = ("x", "y", "slices", "spacing_x_mm", "spacing_y_mm", "slice_gap_mm")


@dataclasses.dataclass(frozen=True)
class Suspicion:
    what: str
    subjects: tuple[int, ...] = ()  # by index; empty where it concerns the table or the whole cohort


def find(findings: Findings) -> list[Suspicion]:
    """Everything suspicious, the most serious first."""
    suspicions: list[Suspicion | None] = [_suspicion("cannot be read, so prepare leaves them out", findings.failures)]
    stacks = findings.stacks[~findings.stacks["failed"].astype(bool)]
    suspicions += _images(stacks)
    for plane, of_plane in stacks.groupby("plane", sort=False):
        absent = sorted(set(stacks["subject"]) - set(of_plane["subject"]))
        suspicions.append(_suspicion(f"no {plane}, although other subjects have it", absent))
        suspicions += _geometry(str(plane), of_plane)
        suspicions += _labels(str(plane), of_plane)
    suspicions += _table(findings)
    return [s for s in suspicions if s is not None]


def outliers(values: pd.Series) -> pd.Series:
    """Whether each value is over 6 robust SDs, and over 30 %, away from the median.

    The robust SD is 1.4826 times the median absolute deviation.
    """
    if values.count() < _MIN_VALUES:
        return pd.Series(False, values.index)
    distance = (values - values.median()).abs()
    return distance > max(OUTLIER_SD * 1.4826 * distance.median(), _TOLERANCE * abs(values.median()))


def _suspicion(what: str, subjects: Iterable[Any]) -> Suspicion | None:
    """A suspicion about these subjects; None where there are none."""
    indices = tuple(sorted({int(i) for i in subjects}))
    return Suspicion(what, indices) if indices else None


def _images(stacks: pd.DataFrame) -> Iterator[Suspicion | None]:
    repeated = stacks[stacks.duplicated(["digest"], keep=False) & ~stacks["constant"].astype(bool)]
    shared = repeated.groupby("digest")["subject"].transform("nunique") > 1
    yield _suspicion("the same image as another subject", repeated[shared]["subject"])
    twice = repeated[repeated.duplicated(["digest", "subject", "plane"])]
    yield _suspicion("the same image at two phases", twice["subject"])
    yield _suspicion("an image of one grey value", stacks[stacks["constant"].astype(bool)]["subject"])


def _geometry(plane: str, stacks: pd.DataFrame) -> Iterator[Suspicion | None]:
    first = stacks.drop_duplicates("subject")
    for column, words in _MEASURES.items():
        far = first[outliers(first[column].astype(float))]
        yield _suspicion(f"{plane}: {words} far from the median", far["subject"])
    ratio = first["spacing_x_mm"] / first["spacing_y_mm"]
    yield _suspicion(f"{plane}: pixels are not square", first[(ratio - 1).abs() > 0.01]["subject"])
    spans = stacks.groupby("subject")[list(_SAME_AT_ALL_PHASES)].agg(lambda v: v.max() - v.min())
    yield _suspicion(f"{plane}: phases differ in shape or spacing", spans.index[(spans > 1e-3).any(axis=1)])
    without_es = set(first["subject"]) - set(stacks[stacks["phase"] == "ES"]["subject"])
    yield _suspicion(f"{plane}: no ES", without_es)


def _labels(plane: str, stacks: pd.DataFrame) -> Iterator[Suspicion | None]:
    annotated = stacks[stacks["structures"] != ""]
    empty = annotated[annotated["labelled_slices"] == 0]
    yield _suspicion(f"{plane}: an empty label", empty["subject"])
    skipped = annotated[annotated["skipped_slices"] > 0]
    yield _suspicion(f"{plane}: an empty slice between labelled ones", skipped["subject"])
    labelled = annotated[annotated["labelled_slices"] > 0]
    most_common = labelled["structures"].value_counts().index[:1]
    unusual = labelled[~labelled["structures"].isin(most_common)]
    yield _suspicion(f"{plane}: other structures annotated than in most subjects", unusual["subject"])
    for structure in anatomy.STRUCTURES:
        yield from _sizes(plane, structure, labelled)


def _sizes(plane: str, structure: str, labelled: pd.DataFrame) -> Iterator[Suspicion | None]:
    unit = anatomy.size_unit(plane)
    sizes = labelled[["subject", "phase", f"{structure}_{unit}"]].dropna()
    sizes.columns = ["subject", "phase", "size"]
    yield _suspicion(f"{plane}: {structure} annotated but empty", sizes[sizes["size"] == 0]["subject"])
    yield _implausible(plane, structure, sizes)
    what = "area" if unit == "cm2" else "volume"
    for phase, of_phase in sizes.groupby("phase"):
        far = of_phase[outliers(of_phase["size"])]
        yield _suspicion(f"{plane}: {structure} at {phase}: {what} far from the median", far["subject"])
    by_phase = sizes.pivot(index="subject", columns="phase", values="size")
    if {"ED", "ES"} <= set(by_phase) and structure in ("lv_cavity", "rv_cavity"):
        larger = by_phase.index[by_phase["ES"] > by_phase["ED"]]
        yield _suspicion(f"{plane}: {structure} larger at ES than at ED", larger)


def _implausible(plane: str, structure: str, sizes: pd.DataFrame) -> Suspicion | None:
    """A median volume of the short axis at ED that no cohort of adults has."""
    at_ed = sizes[sizes["phase"] == "ED"]["size"]
    if plane != "sax" or structure not in _PLAUSIBLE_ML or at_ed.empty:
        return None
    (low, high), median = _PLAUSIBLE_ML[structure], at_ed.median()
    if low <= median <= high:
        return None
    return Suspicion(
        f"{plane}: {structure} has {median:.3g} ml at ED in the median, not {low} to {high}: check the voxel spacing"
    )


def _table(findings: Findings) -> Iterator[Suspicion | None]:
    yield _suspicion("images but no table row", findings.without_row)
    if findings.rows_without_images:
        yield Suspicion(f"table rows without images: {findings.rows_without_images}")
    columns = findings.columns
    if columns is None:
        return
    for note in ("all missing", "constant"):
        names = columns[columns["note"] == note]["column"]
        if len(names):
            yield Suspicion(f"columns {note}: {', '.join(names)}")
    for row in columns[columns["beyond"] > 0].to_dict("records"):
        yield Suspicion(
            f"column {row['column']}: {row['beyond']} values beyond {OUTLIER_SD} SD "
            f"(range {row['min']:.4g} to {row['max']:.4g}, mean {row['mean']:.4g}, SD {row['sd']:.3g})"
        )
    for row in columns[columns["outside"] > 0].to_dict("records"):
        yield Suspicion(f"column {row['column']}: {row['outside']} values outside its categories")
