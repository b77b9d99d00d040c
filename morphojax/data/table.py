"""The table of a cohort: what its columns mean, and their encoding for a model, fitted on training rows only.

A column is continuous, binary or categorical, belongs to one group, and may leak the label of a task. Groups are what
an ablation selects or drops: "no cardiac morphometry" is `schema.select("-cardiac_morphometric")`.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from absl import logging

from morphojax.anatomy import MYOCARDIUM_DENSITY_G_PER_ML, PHASES, STRUCTURES
from morphojax.data.imputation import Imputer

KINDS = ("continuous", "binary", "categorical")
IMPUTATIONS = ("mean", "iterative")
GROUPS = (
    "cardiac_morphometric",
    "body_morphometric",
    "haemodynamic",
    "demographic",
    "lifestyle",
    "medical_history",
    "acquisition",
)
OUTLIER_SD = 6
DICTIONARY_FIELDS = ("name", "kind", "group", "unit", "categories", "leak", "description", "measures")
# What a column can measure of the heart: a volume in ml or a mass in g of a structure at a phase, or an ejection fraction.
MEASURES = (
    *(f"{structure}:{phase}:ml" for structure in STRUCTURES for phase in PHASES),
    *(f"lv_myocardium:{phase}:g" for phase in PHASES),
    *(f"{structure}:EF:%" for structure in STRUCTURES if structure != "lv_myocardium"),
)


class TableError(ValueError):
    """A table or data dictionary that cannot be used. The message names the column, never the subject."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column. `categories` are the texts of its classes, in the order of their codes; a binary column without any
    holds 0 and 1, a categorical one without any learns them from the training rows. `leak` names the tasks whose label
    this column is, or is derived from. `measures`, one of MEASURES as in lv_cavity:ED:ml, says what a continuous column
    measures of the heart, for `volumes`."""

    name: str
    kind: str
    group: str
    unit: str = ""
    categories: tuple[str, ...] = ()
    leak: tuple[str, ...] = ()
    description: str = ""
    measures: str = ""

    def __post_init__(self):
        reserved = self.name in ("all", *GROUPS) or self.name.startswith("-") or "," in self.name
        if not self.name or self.name != self.name.strip() or reserved:
            raise TableError(f"column {self.name!r}: a name is a word without comma or leading '-', no group nor 'all'")
        if self.kind not in KINDS:
            raise TableError(f"column {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.group not in GROUPS:
            raise TableError(f"column {self.name!r}: group {self.group!r} is not one of {', '.join(GROUPS)}")
        n = len(self.categories)
        if n != len(set(self.categories)):
            raise TableError(f"column {self.name!r}: a category is listed twice in {list(self.categories)}")
        if n and (self.kind == "continuous" or n == 1 or (self.kind == "binary" and n != 2)):
            raise TableError(f"column {self.name!r}: {n} categories do not fit a {self.kind} column")
        if self.measures and self.measures not in MEASURES:
            raise TableError(f"column {self.name!r}: measures {self.measures!r} is not one of {', '.join(MEASURES)}")
        if self.measures and self.kind != "continuous":
            raise TableError(f"column {self.name!r}: a {self.kind} column cannot measure {self.measures}")
        if self.measures and self.unit and self.unit.lower() != self.measures.split(":")[-1]:
            raise TableError(f"column {self.name!r}: in {self.unit}, it cannot measure {self.measures}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The declared classes; () for a continuous column and for one that learns its classes."""
        return self.categories or (("0", "1") if self.kind == "binary" else ())


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order in which they are encoded."""

    columns: tuple[Column, ...]

    def __post_init__(self):
        repeated = sorted({n for n in self.names if self.names.count(n) > 1})
        if repeated:
            raise TableError(f"columns described twice: {', '.join(repeated)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have a column here, in the order of GROUPS."""
        present = {c.group for c in self.columns}
        return tuple(g for g in GROUPS if g in present)

    def select(self, spec: str) -> "Schema":
        """The columns that a comma-separated list of `all`, groups and column names asks for, in schema order.

        A leading '-' drops; a spec of drops alone starts from all columns, and a drop wins over a pick. Raises
        TableError for a name that is neither a group nor a column here (an ablation of nothing is no ablation), and
        where no column is left.
        """
        picked, dropped, any_pick = set(), set(), False
        for word in (w.strip() for w in spec.split(",")):
            if not word:
                continue
            name = word.removeprefix("-").strip()
            found = {c.name for c in self.columns if name in ("all", c.name, c.group)}
            if not found:
                raise TableError(
                    f"{name!r} in the selection {spec!r} is neither a group nor a column of this table. "
                    f"Groups: {', '.join(self.groups)}. Columns: {', '.join(self.names)}."
                )
            if word.startswith("-"):
                dropped |= found
            else:
                picked |= found
                any_pick = True
        kept = tuple(c for c in self.columns if (c.name in picked or not any_pick) and c.name not in dropped)
        if not spec.strip(" ,") or not kept:
            raise TableError(f"the selection {spec!r} leaves no column. Groups: {', '.join(self.groups)}.")
        return Schema(kept)

    def without_leaks(self, task: str) -> "Schema":
        """The columns that do not give away the label of `task`."""
        return Schema(tuple(c for c in self.columns if task not in c.leak))

    def to_json(self) -> list[dict[str, Any]]:
        """A column that measures nothing is written without `measures`: a dataset from before there was that field keeps its
        fingerprint."""
        columns = [
            dataclasses.asdict(c) | {"categories": list(c.categories), "leak": list(c.leak)} for c in self.columns
        ]
        return [{k: v for k, v in c.items() if k != "measures" or v} for c in columns]

    @classmethod
    def from_json(cls, state: Sequence[Mapping[str, Any]]) -> Self:
        return cls(tuple(_column(dict(c)) for c in state))


def _column(fields: dict[str, Any]) -> Column:
    lists: dict[str, Any] = {k: tuple(fields.get(k, ())) for k in ("categories", "leak")}
    return Column(**fields | lists)


def read_dictionary(path: str | Path) -> Schema:
    """Reads a data dictionary: a CSV with the header name,kind,group[,unit,categories,leak,description,measures].

    Several categories or leaks are separated by semicolons. Raises TableError naming the file and line.
    """
    return Schema(tuple(column for column, _ in read_described(path)))


def read_described(path: str | Path, more: Sequence[str] = ()) -> list[tuple[Column, dict[str, str]]]:
    """The columns of a data dictionary, each with its cells under the headers `more`, which it may have besides; "" where it has none.
    Raises TableError as `read_dictionary` does."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = tuple(reader.fieldnames or ())
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as a CSV data dictionary ({error})") from error
    unknown, absent = set(header) - {*DICTIONARY_FIELDS, *more}, set(DICTIONARY_FIELDS[:3]) - set(header)
    if unknown or absent:
        raise TableError(f"{path}: the header is {list(header)}; expected {', '.join((*DICTIONARY_FIELDS, *more))}")
    found: list[tuple[Column, dict[str, str]]] = []
    for line, row in lines:
        if None in row or None in row.values():
            raise TableError(f"{path}, line {line}: {len(header)} fields expected; quote a text that holds a comma")
        fields: dict[str, Any] = {k: v.strip() for k, v in row.items()}
        cells = {key: fields.pop(key, "") for key in more}
        for key in ("categories", "leak"):
            fields[key] = [w.strip() for w in fields.get(key, "").split(";") if w.strip()]
        try:
            found.append((_column(fields), cells))
        except TableError as error:
            raise TableError(f"{path}, line {line}: {error}") from error
    try:
        Schema(tuple(column for column, _ in found))
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    return found


def check(frame: pd.DataFrame, schema: Schema) -> tuple[str, ...]:
    """Reads every column as its kind. Raises TableError for what cannot become a number (an absent column, text or
    infinity in a numeric column) nor be the volume it is said to measure (zero, negative); returns a warning for each
    column with values outside its categories, which `TableEncoder` refuses in training rows and takes as missing
    elsewhere."""
    warnings = []
    for column in schema.columns:
        if column.kind == "continuous":
            _measured(frame, column) if column.measures else _numbers(frame, column)
            continue
        outside = [t for t in _texts(frame, column) if t is not None and column.classes and t not in column.classes]
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
            numbers = _numbers(frame, column)
            values = numbers[~np.isnan(numbers)]
            row |= {"classes": 0, "outside": 0, "beyond": 0}
            different = len(set(values))
            if values.size:
                mean, sd = float(values.mean()), float(values.std())
                row |= {"min": float(values.min()), "max": float(values.max()), "mean": mean, "sd": sd}
                row["beyond"] = int((np.abs(values - mean) > OUTLIER_SD * sd).sum()) if different > 1 else 0
        else:
            values = np.array([t for t in _texts(frame, column) if t is not None], object)
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
    numbers = _numbers(frame, column)
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


def _numbers(frame: pd.DataFrame, column: Column) -> np.ndarray:
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


def _texts(frame: pd.DataFrame, column: Column) -> list[str | None]:
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


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """What one column learned: mean and SD (of the population, ddof=0), or classes and the code of the commonest."""

    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()
    mode: int = 0


@dataclasses.dataclass(frozen=True)
class TableEncoder:
    """Table rows -> numbers. `schema` holds the columns encoded, `dropped` names those that say nothing in training."""

    schema: Schema
    fitted: tuple[_Fitted, ...]
    dropped: tuple[str, ...] = ()
    imputer: Imputer | None = None  # of the continuous columns; None: their means

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: Schema, imputation: str = "mean") -> Self:
        """Learns from `frame`, which holds training rows only. A column that is all missing or constant there is
        dropped, with a warning. `imputation`: missing numbers become the mean, or (`iterative`) what the row's other numbers tell.
        Raises TableError for another one, as `check` does, for a class outside a column's categories, and where
        no column is left.
        """
        if imputation not in IMPUTATIONS:
            raise TableError(f"imputation {imputation!r} is unknown: choose one of {', '.join(IMPUTATIONS)}")
        columns, fitted, dropped = [], [], []
        for column in schema.columns:
            learned = _fit(frame, column)
            if isinstance(learned, str):
                logging.warning("column %r is %s in the training rows: dropped", column.name, learned)
                dropped.append(column.name)
            else:
                columns.append(column)
                fitted.append(learned)
        if not columns:
            raise TableError(f"every column is missing or constant in the {len(frame)} training rows: {dropped}")
        encoder = cls(Schema(tuple(columns)), tuple(fitted), tuple(dropped))
        numbers = [i for i, k in enumerate(encoder.cardinalities) if k == 1]
        if imputation == "mean" or len(numbers) < 2:
            return encoder
        values, missing = encoder.encode(frame)
        known = np.where(missing, np.nan, values.astype(np.float64))[:, numbers]
        return dataclasses.replace(encoder, imputer=Imputer.fit(known))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Per encoded column: 1 = continuous, k = number of classes."""
        return tuple(1 if c.kind == "continuous" else len(f.classes) for c, f in self._pairs)

    def classes(self, name: str) -> tuple[str, ...]:
        """The classes of an encoded column, in the order of their codes; () for a continuous one. Raises KeyError."""
        return {c.name: f.classes for c, f in self._pairs}[name]

    @property
    def _pairs(self) -> tuple[tuple[Column, _Fitted], ...]:
        return tuple(zip(self.schema.columns, self.fitted, strict=True))

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """values float32 [N, F] (continuous standardised, classes as codes 0..k-1, the missing imputed by the training
        mean, or as the imputer tells, or most frequent class) and missing bool [N, F]. A class unknown to the column is missing here, with
        a warning that counts it. Raises TableError as `check` does, and for a value too far off to be a float32."""
        values = np.zeros((len(frame), len(self.fitted)), np.float32)
        missing = np.zeros(values.shape, bool)
        for i, (column, fitted) in enumerate(self._pairs):
            if column.kind == "continuous":
                numbers = _numbers(frame, column)
                missing[:, i] = np.isnan(numbers)
                scaled = np.where(missing[:, i], 0.0, (numbers - fitted.mean) / fitted.std)
                if (np.abs(scaled) > np.finfo(np.float32).max).any():
                    raise TableError(
                        f"column {column.name!r}: a value lies too far from the training rows for a float32"
                    )
                values[:, i] = scaled
                continue
            codes = {text: code for code, text in enumerate(fitted.classes)}
            texts = _texts(frame, column)
            missing[:, i] = [t not in codes for t in texts]
            values[:, i] = [codes.get(t, fitted.mode) if t is not None else fitted.mode for t in texts]
            unseen = [t for t in texts if t is not None and t not in codes]
            if unseen:
                logging.warning(
                    "column %r: %d values of %d classes unknown in training (e.g. %r) taken as missing",
                    *(column.name, len(unseen), len(set(unseen)), unseen[0]),
                )
        if self.imputer is not None:
            numbers = [i for i, k in enumerate(self.cardinalities) if k == 1]
            values[:, numbers] = self.imputer.fill(np.where(missing, np.nan, values.astype(np.float64))[:, numbers])
        return values, missing

    def to_json(self) -> dict[str, Any]:
        fitted = [dataclasses.asdict(f) | {"classes": list(f.classes)} for f in self.fitted]
        state = {"schema": self.schema.to_json(), "fitted": fitted, "dropped": list(self.dropped)}
        return state | ({"imputer": self.imputer.to_json()} if self.imputer else {})

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        fitted = tuple(_Fitted(**f | {"classes": tuple(f["classes"])}) for f in state["fitted"])
        imputer = Imputer.from_json(state["imputer"]) if "imputer" in state else None
        return cls(Schema.from_json(state["schema"]), fitted, tuple(state["dropped"]), imputer)


def _fit(frame: pd.DataFrame, column: Column) -> _Fitted | str:
    """What the column learned, or the reason why it says nothing."""
    if column.kind == "continuous":
        numbers = _numbers(frame, column)
        numbers = numbers[~np.isnan(numbers)]
        if not numbers.size:
            return "all missing"
        # Equal floats can have a mean that is one rounding away from them, so the SD alone does not show a constant.
        if numbers.min() == numbers.max() or not 0 < (std := float(numbers.std())) < math.inf:
            return "constant"
        return _Fitted(mean=float(numbers.mean()), std=std)
    texts = [t for t in _texts(frame, column) if t is not None]
    if not texts:
        return "all missing"
    classes = column.classes or tuple(sorted(set(texts)))
    outside = sorted(set(texts) - set(classes))
    if outside:
        raise TableError(
            f"column {column.name!r}: {outside[0]!r} is not one of its classes {list(classes)}. "
            "List it among the categories of the data dictionary, or make it missing in the table."
        )
    counts = [texts.count(c) for c in classes]
    if sum(n > 0 for n in counts) == 1:
        return "constant"
    return _Fitted(classes=classes, mode=int(np.argmax(counts)))
