"""What looks wrong in what `inspection` found. Nothing here is an error: a person should look."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from morphojax import anatomy
from morphojax.data.inspection.survey import Findings
from morphojax.data.tables.cells import OUTLIER_SD

_LEAST = 5  # values, for there to be outliers among them
_SPREAD = 0.3  # of the median: what lies within is no outlier, however alike the others are
_MEASURES = {
    "x": "pixels along X",
    "y": "pixels along Y",
    "slices": "slices",
    "spacing_x_mm": "mm in plane",
    "slice_gap_mm": "mm between slices",
}
_FIXED = ("x", "y", "slices", "spacing_x_mm", "spacing_y_mm", "slice_gap_mm")


@dataclasses.dataclass(frozen=True)
class Suspicion:
    what: str
    subjects: tuple[int, ...] = ()  # by index; none where it concerns the table or the whole


def find(findings: Findings) -> list[Suspicion]:
    """All that is suspicious, gravest first."""
    found: list[Suspicion | None] = [_of("cannot be read, so prepare leaves them out", findings.failures)]
    stacks = findings.stacks[~findings.stacks["failed"].astype(bool)]
    found += _images(stacks)
    for plane, here in stacks.groupby("plane", sort=False):
        absent = sorted(set(stacks["subject"]) - set(here["subject"]))
        found += [_of(f"no {plane}, which others have", absent)]
        found += _geometry(str(plane), here)
        found += _labels(str(plane), here)
    found += _table(findings)
    return [s for s in found if s is not None]


def outliers(values: pd.Series) -> pd.Series:
    """Whether a value lies further from the median than six robust SDs (1.4826 times the median deviation) and 30 % of it."""
    if values.count() < _LEAST:
        return pd.Series(False, values.index)
    off = (values - values.median()).abs()
    return off > max(OUTLIER_SD * 1.4826 * off.median(), _SPREAD * abs(values.median()))


def _of(what: str, subjects: Iterable[Any]) -> Suspicion | None:
    indices = tuple(sorted({int(i) for i in subjects}))
    return Suspicion(what, indices) if indices else None


def _images(stacks: pd.DataFrame) -> Iterator[Suspicion | None]:
    shared = stacks[stacks.duplicated(["digest"], keep=False) & ~stacks["constant"].astype(bool)]
    several = shared.groupby("digest")["subject"].transform("nunique") > 1
    yield _of("the same image as another subject", shared[several]["subject"])
    yield _of("the same image at two phases", shared[shared.duplicated(["digest", "subject", "plane"])]["subject"])
    yield _of("an image of one grey value", stacks[stacks["constant"].astype(bool)]["subject"])


def _geometry(plane: str, stacks: pd.DataFrame) -> Iterator[Suspicion | None]:
    first = stacks.drop_duplicates("subject")
    for name, words in _MEASURES.items():
        yield _of(f"{plane}: {words} far from the others'", first[outliers(first[name].astype(float))]["subject"])
    ratio = first["spacing_x_mm"] / first["spacing_y_mm"]
    yield _of(f"{plane}: pixels are not square", first[(ratio - 1).abs() > 0.01]["subject"])
    spans = stacks.groupby("subject")[list(_FIXED)].agg(lambda v: v.max() - v.min())
    yield _of(f"{plane}: phases differ in shape or spacing", spans.index[(spans > 1e-3).any(axis=1)])
    lone = set(first["subject"]) - set(stacks[stacks["phase"] == "ES"]["subject"])
    yield _of(f"{plane}: no ES", lone)


def _labels(plane: str, stacks: pd.DataFrame) -> Iterator[Suspicion | None]:
    labelled = stacks[stacks["structures"] != ""]
    yield _of(f"{plane}: a label with nothing drawn in it", labelled[labelled["labelled_slices"] == 0]["subject"])
    yield _of(f"{plane}: an undrawn slice between drawn ones", labelled[labelled["skipped_slices"] > 0]["subject"])
    drawn = labelled[labelled["labelled_slices"] > 0]
    schemes = drawn["structures"].value_counts()
    if len(schemes) > 1:
        yield _of(
            f"{plane}: other structures annotated than in most",
            drawn[drawn["structures"] != schemes.index[0]]["subject"],
        )
    for structure in anatomy.STRUCTURES:
        volumes = drawn[["subject", "phase", f"{structure}_ml"]].dropna()
        volumes.columns = ["subject", "phase", "ml"]
        yield _of(f"{plane}: {structure} annotated but empty", volumes[volumes["ml"] == 0]["subject"])
        for phase, here in volumes.groupby("phase"):
            yield _of(
                f"{plane}: {structure} at {phase}: volume far from the others'", here[outliers(here["ml"])]["subject"]
            )
        by_phase = volumes.pivot(index="subject", columns="phase", values="ml")
        if {"ED", "ES"} <= set(by_phase) and structure in ("lv_cavity", "rv_cavity"):
            larger = by_phase.index[by_phase["ES"] > by_phase["ED"]]
            yield _of(f"{plane}: {structure} larger at ES than at ED", larger)


def _table(findings: Findings) -> Iterator[Suspicion | None]:
    yield _of("images but no row of the table", findings.without_row)
    if findings.rows_without_images:
        yield Suspicion(f"rows of the table without images: {findings.rows_without_images}")
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
