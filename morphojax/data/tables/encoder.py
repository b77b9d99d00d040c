"""Table rows -> numbers for a model, by what the training rows alone tell."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from absl import logging

from morphojax.data.tables.cells import numbers_of, texts_of
from morphojax.data.tables.imputation import Imputer
from morphojax.data.tables.schema import Column, Schema, TableError

IMPUTATIONS = ("mean", "iterative")


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
                numbers = numbers_of(frame, column)
                missing[:, i] = np.isnan(numbers)
                scaled = np.where(missing[:, i], 0.0, (numbers - fitted.mean) / fitted.std)
                if (np.abs(scaled) > np.finfo(np.float32).max).any():
                    raise TableError(
                        f"column {column.name!r}: a value lies too far from the training rows for a float32"
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
        numbers = numbers_of(frame, column)
        numbers = numbers[~np.isnan(numbers)]
        if not numbers.size:
            return "all missing"
        # Equal floats can have a mean that is one rounding away from them, so the SD alone does not show a constant.
        if numbers.min() == numbers.max() or not 0 < (std := float(numbers.std())) < math.inf:
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
