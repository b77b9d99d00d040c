"""The cells of a table, read by its schema: numbers, classes, and the volumes of structures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from morphojax.anatomy import MYOCARDIUM_DENSITY_G_PER_ML, PHASES, STRUCTURES
from morphojax.data.tables.schema import LARGEST_NUMBER, MEASURES, Column, Schema, TableError

OUTLIER_SD = 6


def check(frame: pd.DataFrame, schema: Schema) -> tuple[str, ...]:
    """Reads every column, and returns a warning for each column with values outside its categories.

    `TableEncoder` refuses such values in training rows and treats them as missing in other rows.
    Raises TableError for an absent column, text or infinity in a numeric column, and a value that
    cannot be the volume, mass or ejection fraction that its column measures.
    """
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
    """A row per column of the schema. Raises TableError for cells that cannot be read.

    - `column`, `kind`, `group`, `unit`: as in the schema.
    - `missing`: fraction of the rows.
    - `min`, `max`, `mean`, `sd` (population SD): of continuous columns.
    - `classes`: number of distinct classes of the other columns.
    - `outside`: number of values outside the categories.
    - `beyond`: number of values more than OUTLIER_SD SDs from the mean.
    - `note`: "all missing", "constant" or "".
    """
    rows = []
    for column in schema.columns:
        row: dict[str, Any] = {name: getattr(column, name) for name in ("kind", "group", "unit")}
        row["column"] = column.name
        if column.kind == "continuous":
            numbers = numbers_of(frame, column)
            values = numbers[~np.isnan(numbers)]
            row |= {"classes": 0, "outside": 0, "beyond": 0}
            distinct = len(set(values))
            if values.size:
                mean, sd = float(values.mean()), float(values.std())
                row |= {"min": float(values.min()), "max": float(values.max()), "mean": mean, "sd": sd}
                row["beyond"] = int((np.abs(values - mean) > OUTLIER_SD * sd).sum()) if distinct > 1 else 0
        else:
            values = np.array([t for t in texts_of(frame, column) if t is not None], object)
            distinct = len(set(values))
            outside = sum(bool(column.classes) and t not in column.classes for t in values)
            row |= {"classes": distinct, "outside": outside, "beyond": 0}
        row["missing"] = 1 - values.size / len(frame) if len(frame) else 1.0
        row["note"] = "all missing" if not distinct else "constant" if distinct == 1 else ""
        rows.append(row)
    about, numbers = ("column", "kind", "group", "unit", "missing"), ("min", "max", "mean", "sd")
    return pd.DataFrame(rows, columns=pd.Index([*about, *numbers, "classes", "outside", "beyond", "note"]))


def volumes(
    frame: pd.DataFrame, schema: Schema, structures: Sequence[str], phases: Sequence[str] = ("ED", "ES")
) -> np.ndarray:
    """The volumes in a table: float32 [N, phases, structures] in ml, NaN where unknown.

    A volume comes from the first filled column that measures it; else
    - of the myocardium, from its mass at 1.05 g/ml, at that phase or another: it does not change;
    - of a cavity at ES, from ED and the ejection fraction: ESV = EDV (1 - EF / 100).
    Nothing is imputed.

    These columns leak the segmentation label of their subject (`Column.leak`): use them for
    training subjects only. Raises TableError for an unknown structure or phase, and as `check`
    does.
    """
    by_measure = _by_measure(frame, schema, structures, phases)

    def volume(structure: str, phase: str) -> np.ndarray:
        values = by_measure[f"{structure}:{phase}:ml"]
        if structure == "lv_myocardium":
            for at in (phase, *PHASES):
                values = _fill(values, by_measure[f"{structure}:{at}:g"] / MYOCARDIUM_DENSITY_G_PER_ML)
        elif phase == "ES":
            values = _fill(values, volume(structure, "ED") * (1 - by_measure[f"{structure}:EF:%"] / 100))
        return values

    all_volumes = [[volume(structure, phase) for structure in structures] for phase in phases]
    return np.moveaxis(np.array(all_volumes, np.float32), -1, 0)


def areas(
    frame: pd.DataFrame, schema: Schema, structures: Sequence[str], phases: Sequence[str], plane: str
) -> np.ndarray:
    """The areas in a table of structures in a long-axis plane, float32 [N, phases, structures] in
    cm2: as `volumes`, from the columns that measure them, and from nothing else.
    """
    by_measure = _by_measure(frame, schema, structures, phases)
    unknown = np.full(len(frame), np.nan)
    found = [[by_measure.get(f"{s}:{plane}:{phase}:cm2", unknown) for s in structures] for phase in phases]
    return np.moveaxis(np.array(found, np.float32), -1, 0)


def _by_measure(
    frame: pd.DataFrame, schema: Schema, structures: Sequence[str], phases: Sequence[str]
) -> dict[str, np.ndarray]:
    """Measure -> values [N], from the first filled column that measures it; NaN where unknown."""
    unknown = [name for name in structures if name not in STRUCTURES] + [p for p in phases if p not in PHASES]
    if unknown:
        raise TableError(f"{', '.join(unknown)}: not among {', '.join(STRUCTURES)} and {', '.join(PHASES)}")
    by_measure = dict.fromkeys(MEASURES, np.full(len(frame), np.nan))
    for column in schema.columns:
        if column.measures:
            by_measure[column.measures] = _fill(by_measure[column.measures], _measured(frame, column))
    return by_measure


def _measured(frame: pd.DataFrame, column: Column) -> np.ndarray:
    """[N] float64, NaN where missing.

    Raises TableError for a value that gives no positive volume, such as a code that means
    "missing".
    """
    numbers = numbers_of(frame, column)
    # As float32, in which they are used: the smallest numbers of a table are 0 there.
    impossible = numbers >= 100 if column.measures.endswith("%") else numbers.astype(np.float32) <= 0
    if impossible.any():
        row = int(impossible.argmax())
        raise TableError(
            f"column {column.name!r}, row {row} (counting from 0): {numbers[row]:g} cannot be {column.measures}; "
            "correct it, or leave the cell empty if the value is unknown"
        )
    return numbers


def _fill(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`first`, with values of `second` where it is NaN."""
    return np.where(np.isnan(first), second, first)


def _cells(frame: pd.DataFrame, column: Column) -> list[Any]:
    """The cells of a column; None where missing (NaN, NaT, None, pd.NA, blank text)."""
    if column.name not in frame.columns:
        raise TableError(
            f"the table has no column {column.name!r}, which its data dictionary describes; add the column or remove the description"
        )
    cells = frame[column.name]
    if isinstance(cells, pd.DataFrame):
        raise TableError(f"the table has the column {column.name!r} twice; remove one")
    missing = cells.isna().to_numpy()
    return [None if m or (isinstance(c, str) and not c.strip()) else c for c, m in zip(cells, missing, strict=True)]


def numbers_of(frame: pd.DataFrame, column: Column) -> np.ndarray:
    """[N] float64, NaN where missing. Raises TableError for text and beyond LARGEST_NUMBER.

    The message gives the position of the row, not its index, which may be a subject id.
    """
    numbers = np.full(len(frame), np.nan)
    for row, cell in enumerate(_cells(frame, column)):
        if cell is None:
            continue
        try:
            if isinstance(cell, str) and "_" in cell:  # which Python allows in numbers
                raise ValueError
            numbers[row] = float(cell)
        except (TypeError, ValueError):
            raise TableError(
                f"column {column.name!r}, row {row} (counting from 0): {str(cell)!r} is not a number. "
                "Correct the table (decimals with a point), or describe the column as categorical."
            ) from None
        if abs(numbers[row]) > LARGEST_NUMBER:
            raise TableError(
                f"column {column.name!r}, row {row} (counting from 0): {numbers[row]:.3g} is infinite or too large; correct it"
            )
    return numbers


def texts_of(frame: pd.DataFrame, column: Column) -> list[str | None]:
    """The classes as texts, None where missing.

    True, 1, 1.0, "1" and "1.0" are the same class: pandas turns whole numbers into floats where a
    value of the column is missing. Raises TableError for infinity, and for a formula.
    """
    texts: list[str | None] = []
    for row, cell in enumerate(_cells(frame, column)):
        text = None if cell is None else str(cell).strip()
        if text and text.startswith("="):
            raise TableError(
                f"column {column.name!r}, row {row} (counting from 0): {text[:40]!r} is a formula; save its value"
            )
        if isinstance(cell, bool | int | float | np.number | np.bool_):
            if math.isinf(cell):
                raise TableError(
                    f"column {column.name!r}, row {row} (counting from 0): the value is infinite; correct it"
                )
            text = str(int(cell)) if cell == int(cell) else text
        elif text is not None and text.endswith(".0") and text[:-2].lstrip("-").isdigit():
            text = text[:-2]
        texts.append(text)
    return texts
