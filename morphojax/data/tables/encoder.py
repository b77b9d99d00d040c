"""Table rows -> numbers for a model, with statistics of the training rows only."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from absl import logging

from morphojax.data import json_text
from morphojax.data.tables.cells import numbers_of, texts_of
from morphojax.data.tables.imputation import Imputer
from morphojax.data.tables.schema import COLUMN_SHAPE, Column, Schema, TableError

IMPUTATIONS = ("mean", "iterative")


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """Statistics of one column: mean and population SD, or classes and the most frequent code."""

    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()
    mode: int = 0


_NUMBERS = [float]
# Of an encoder in JSON, as `TableEncoder.to_json` writes it.
ENCODER_SHAPE = {
    "schema": [COLUMN_SHAPE],
    "fitted": [{"mean": float, "std": float, "classes": [str], "mode": int}],
    "dropped": [str],
    "imputer?": {"weights": [_NUMBERS], "offsets": _NUMBERS, "low": _NUMBERS, "high": _NUMBERS},
}


@dataclasses.dataclass(frozen=True)
class TableEncoder:
    """Table rows -> numbers.

    schema:  the encoded columns.
    fitted:  their statistics.
    dropped: names of the columns that are missing or constant in the training rows.
    imputer: of the continuous columns; None imputes their means.
    """

    schema: Schema
    fitted: tuple[_Fitted, ...]
    dropped: tuple[str, ...] = ()
    imputer: Imputer | None = None

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: Schema, imputation: str = "mean") -> Self:
        """The encoder fitted to `frame`, which must contain training rows only.

        Columns that are all missing or constant are dropped, with a warning. imputation: "mean", or
        "iterative", which predicts a missing number from the row's other numbers (`Imputer`).

        Raises TableError for another imputation, unreadable cells, a class outside a column's
        categories, and where no column is left.
        """
        if imputation not in IMPUTATIONS:
            raise TableError(f"imputation {imputation!r} is unknown: choose one of {', '.join(IMPUTATIONS)}")
        columns, fitted, dropped = [], [], []
        for column in schema.columns:
            statistics = _fit(frame, column)
            if isinstance(statistics, str):
                logging.warning("column %r is %s in the training rows: dropped", column.name, statistics)
                dropped.append(column.name)
            else:
                columns.append(column)
                fitted.append(statistics)
        if not columns:
            raise TableError(
                f"every column is missing or constant in the {len(frame)} training rows: {dropped}; choose other columns or more rows"
            )
        encoder = cls(Schema(tuple(columns)), tuple(fitted), tuple(dropped))
        if imputation == "mean" or len(encoder._continuous) < 2:
            return encoder
        values, missing = encoder.encode(frame)
        known = np.where(missing, np.nan, values.astype(np.float64))[:, encoder._continuous]
        return dataclasses.replace(encoder, imputer=Imputer.fit(known))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Per encoded column: 1 for a continuous one, else the number of classes."""
        return tuple(1 if c.kind == "continuous" else len(f.classes) for c, f in self._pairs)

    @property
    def _continuous(self) -> list[int]:
        """Positions of the continuous columns."""
        return [i for i, k in enumerate(self.cardinalities) if k == 1]

    def classes(self, name: str) -> tuple[str, ...]:
        """The classes of a column by code; () for a continuous one. Raises KeyError."""
        return {c.name: f.classes for c, f in self._pairs}[name]

    @property
    def _pairs(self) -> tuple[tuple[Column, _Fitted], ...]:
        return tuple(zip(self.schema.columns, self.fitted, strict=True))

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """values float32 [N, F], and missing bool [N, F].

        Continuous columns are standardised, classes become codes 0..k-1. Missing numbers become the
        training mean or the imputer's prediction, missing classes the most frequent class. A class
        that is unknown to the column counts as missing, with a warning. Raises TableError for
        unreadable cells and for a value that float32 cannot hold.
        """
        values = np.zeros((len(frame), len(self.fitted)), np.float32)
        missing = np.zeros(values.shape, bool)
        for i, (column, fitted) in enumerate(self._pairs):
            if column.kind == "continuous":
                numbers = numbers_of(frame, column)
                missing[:, i] = np.isnan(numbers)
                scaled = np.where(missing[:, i], 0.0, (numbers - fitted.mean) / fitted.std)
                if (np.abs(scaled) > np.finfo(np.float32).max).any():
                    raise TableError(
                        f"column {column.name!r}: a value lies too far from the training rows for a float32; correct it"
                    )
                values[:, i] = scaled
                continue
            codes = {text: code for code, text in enumerate(fitted.classes)}
            texts = texts_of(frame, column)
            missing[:, i] = [t not in codes for t in texts]
            values[:, i] = [codes.get(t, fitted.mode) if t is not None else fitted.mode for t in texts]
            unseen = [t for t in texts if t is not None and t not in codes]
            if unseen:
                logging.warning(
                    "column %r: %d values of %d classes unknown in training (e.g. %r) treated as missing",
                    *(column.name, len(unseen), len(set(unseen)), unseen[0]),
                )
        if self.imputer is not None:
            known = np.where(missing, np.nan, values.astype(np.float64))[:, self._continuous]
            values[:, self._continuous] = self.imputer.fill(known)
        return values, missing

    def to_json(self) -> dict[str, Any]:
        fitted = [dataclasses.asdict(f) | {"classes": list(f.classes)} for f in self.fitted]
        state = {"schema": self.schema.to_json(), "fitted": fitted, "dropped": list(self.dropped)}
        return state | ({"imputer": self.imputer.to_json()} if self.imputer else {})

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """The encoder that `to_json` wrote. Raises TableError for anything else."""
        if found := json_text.problem(state, ENCODER_SHAPE, "table"):
            raise TableError(found)
        fitted = tuple(_Fitted(**f | {"classes": tuple(f["classes"])}) for f in state["fitted"])
        imputer = Imputer.from_json(state["imputer"]) if "imputer" in state else None
        encoder = cls(Schema.from_json(state["schema"]), fitted, tuple(state["dropped"]), imputer)
        encoder._check()
        return encoder

    def _check(self) -> None:
        """Raises TableError where statistics do not fit their columns."""
        count = len(self.schema.columns)
        if len(self.fitted) != count:
            raise TableError(f"statistics of {len(self.fitted)} columns for {count} columns")
        for column, fitted in self._pairs:
            classes = len(fitted.classes)
            fits = fitted.std > 0 if column.kind == "continuous" else 0 <= fitted.mode < classes
            if not fits or (column.kind == "continuous") != (classes == 0):
                raise TableError(f"column {column.name!r}: its statistics are not those of a {column.kind} column")
        if self.imputer is not None and self.imputer.columns != {len(self._continuous)}:
            raise TableError("the imputer is of other columns")


def _fit(frame: pd.DataFrame, column: Column) -> _Fitted | str:
    """The statistics of a column, or the reason to drop it."""
    if column.kind == "continuous":
        numbers = numbers_of(frame, column)
        numbers = numbers[~np.isnan(numbers)]
        if not numbers.size:
            return "all missing"
        # The mean of equal floats can differ from them by rounding, so the SD of a constant may
        # exceed 0.
        if numbers.min() == numbers.max() or not (std := float(numbers.std())):
            return "constant"
        return _Fitted(mean=float(numbers.mean()), std=std)
    texts = [t for t in texts_of(frame, column) if t is not None]
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
