"""The cells of a cohort's table, read as its schema says: numbers, classes, and the volumes they tell."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from morphojax.anatomy import MYOCARDIUM_DENSITY_G_PER_ML, PHASES, STRUCTURES
from morphojax.data.tables.schema import MEASURES, Column, Schema, TableError

OUTLIER_SD = 6


def check(frame: pd.DataFrame, schema: Schema) -> tuple[str, ...]:
    """Reads every column as its kind. Raises TableError for what cannot become a number (an absent column, text or
    infinity in a numeric column) nor be the volume it is said to measure (zero, negative); returns a warning for each
    column with values outside its categories, which `TableEncoder` refuses in training rows and takes as missing
    elsewhere."""
    warnings = []
    for column in schema.columns:
        if column.kind == "continuous":
            _measured(frame, column) if column.measures else numbers_of(frame, column)
            continue
        outside = [t for t in texts_of(frame, column) if t is not None and column.classes and t not in column.classes]
        if outside:
            warnings.append(
                f"column {column.name!r}: {len(outside)} values outside its categories, e.g. {outside[0]!r}"
            )
    return tuple(warnings)


def describe(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """A row per column: `column`, `kind`, `group`, `missing` (share of the rows), `min`, `max`, `mean`, `sd` (continuous; ddof=0),
    `classes` (others: how many), `outside` (values outside the categories), `beyond` (values over OUTLIER_SD SDs from the mean) and
    `note`: "all missing", "constant" or nothing. Raises TableError as `check` does."""
    rows = []
    for column in schema.columns:
        row: dict[str, Any] = {"column": column.name, "kind": column.kind, "group": column.group}
        if column.kind == "continuous":
            numbers = numbers_of(frame, column)
            values = numbers[~np.isnan(numbers)]
            row |= {"classes": 0, "outside": 0, "beyond": 0}
            different = len(set(values))
            if values.size:
                mean, sd = float(values.mean()), float(values.std())
                row |= {"min": float(values.min()), "max": float(values.max()), "mean": mean, "sd": sd}
                row["beyond"] = int((np.abs(values - mean) > OUTLIER_SD * sd).sum()) if different > 1 else 0
        else:
            values = np.array([t for t in texts_of(frame, column) if t is not None], object)
            different = len(set(values))
            outside = sum(bool(column.classes) and t not in column.classes for t in values)
            row |= {"classes": different, "outside": outside, "beyond": 0}
        row["missing"] = 1 - values.size / len(frame) if len(frame) else 1.0
        row["note"] = "all missing" if not different else "constant" if different == 1 else ""
        rows.append(row)
    names = ["column", "kind", "group", "missing", "min", "max", "mean", "sd", "classes", "outside", "beyond", "note"]
    return pd.DataFrame(rows, columns=names)


def volumes(
    frame: pd.DataFrame, schema: Schema, structures: Sequence[str], phases: Sequence[str] = ("ED", "ES")
) -> np.ndarray:
    """The volumes that a table tells: float32 [N, phases, structures] in ml, NaN where it tells none.

    A volume is read from the columns that measure it (the first that is filled), else from a mass at 1.05 g/ml, else, at ES,
    from those of ED and the ejection fraction: ESV = EDV (1 - EF / 100). Nothing is imputed.

    These columns give away a segmentation of the same subject (`Column.leak`): they serve subjects that one trains on, and
    none that one tests on. Raises TableError for an unknown structure or phase, and as `check` does.
    """
    unknown = [name for name in structures if name not in STRUCTURES] + [p for p in phases if p not in PHASES]
    if unknown:
        raise TableError(f"{', '.join(unknown)}: not among {', '.join(STRUCTURES)} and {', '.join(PHASES)}")
    told = dict.fromkeys(MEASURES, np.full(len(frame), np.nan))
    for column in schema.columns:
        if column.measures:
            told[column.measures] = _either(told[column.measures], _measured(frame, column))

    def volume(structure: str, phase: str) -> np.ndarray:
        found = told[f"{structure}:{phase}:ml"]
        if structure == "lv_myocardium":
            found = _either(found, told[f"{structure}:{phase}:g"] / MYOCARDIUM_DENSITY_G_PER_ML)
        elif phase == "ES":
            found = _either(found, volume(structure, "ED") * (1 - told[f"{structure}:EF:%"] / 100))
        return found

    found = [volume(structure, phase) for phase in phases for structure in structures]
    shape = (len(phases), len(structures), len(frame))
    return np.moveaxis(np.array(found, np.float32).reshape(shape), -1, 0)


def _measured(frame: pd.DataFrame, column: Column) -> np.ndarray:
    """[N] float64, NaN where missing. Raises TableError for a value that makes no positive volume, as a code for "missing"
    would be."""
    numbers = numbers_of(frame, column)
    impossible = numbers >= 100 if column.measures.endswith("%") else numbers <= 0
    if impossible.any():
        row = int(impossible.argmax())
        raise TableError(
            f"column {column.name!r}, row {row} (counting from 0): {numbers[row]:g} cannot be {column.measures}; "
            "correct it, or leave the cell empty where it is not known"
        )
    return numbers


def _either(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(first), second, first)


def _cells(frame: pd.DataFrame, column: Column) -> list[Any]:
    """The cells, None where missing: NaN, NaT, None, pd.NA and blank text."""
    if column.name not in frame.columns:
        raise TableError(f"the table has no column {column.name!r}, which its data dictionary describes")
    cells = frame[column.name]
    if isinstance(cells, pd.DataFrame):
        raise TableError(f"the table has the column {column.name!r} twice")
    absent = cells.isna().to_numpy()
    return [None if a or (isinstance(c, str) and not c.strip()) else c for c, a in zip(cells, absent, strict=True)]


def numbers_of(frame: pd.DataFrame, column: Column) -> np.ndarray:
    """[N] float64, NaN where missing. Errors name the row by its position: an index may hold subject ids."""
    numbers = np.full(len(frame), np.nan)
    for row, cell in enumerate(_cells(frame, column)):
        if cell is None:
            continue
        try:
            numbers[row] = float(cell)
        except (TypeError, ValueError):
            raise TableError(
                f"column {column.name!r}, row {row} (counting from 0): {str(cell)!r} is not a number. "
                "Correct the table, or describe the column as categorical."
            ) from None
        if math.isinf(numbers[row]):
            raise TableError(f"column {column.name!r}, row {row} (counting from 0): the value is infinite")
    return numbers


def texts_of(frame: pd.DataFrame, column: Column) -> list[str | None]:
    """The classes as texts, None where missing. A whole number reads the same as int, float (which a missing value in
    the column makes of it), bool or text: True, 1, 1.0, "1" and "1.0" are one class."""
    texts: list[str | None] = []
    for row, cell in enumerate(_cells(frame, column)):
        text = None if cell is None else str(cell).strip()
        if isinstance(cell, bool | int | float | np.number | np.bool_):
            if math.isinf(cell):
                raise TableError(f"column {column.name!r}, row {row} (counting from 0): the value is infinite")
            text = str(int(cell)) if cell == int(cell) else text
        elif text is not None and text.endswith(".0") and text[:-2].lstrip("-").isdigit():
            text = text[:-2]
        texts.append(text)
    return texts
