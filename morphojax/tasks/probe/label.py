"""A column of the table as the label of a probe."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import Column, Schema, TableError


@dataclasses.dataclass(frozen=True)
class Label:
    """A column of the table that is predicted from images.

    table:   the encoder of this one column, fitted on the training subjects.
    classes: those that occur, in the order of their codes; () for a continuous column.
    """

    table: TableEncoder
    classes: tuple[str, ...]

    @classmethod
    def fit(cls, dataset: Dataset, name: str, subjects: np.ndarray) -> Self:
        """The column `name`, fitted on the training `subjects` (indices).

        Raises ValueError, naming the column and the choices: no such column, one that is missing or
        constant among the subjects, or a class with fewer than two of them.
        """
        columns = {column.name: column for column in dataset.schema.columns}
        choices = f"choose among {', '.join(columns)}"
        if name not in columns:
            raise ValueError(f"label {name!r} is no column of the table of {dataset.root}: {choices}")
        try:
            table = TableEncoder.fit(dataset.table.iloc[subjects], Schema((columns[name],)))
        except TableError as error:
            raise ValueError(f"label {name!r} cannot be learned ({error}): {choices}") from error
        if columns[name].kind == "continuous":
            return cls(table, ())
        all_classes = cls(table, table.classes(name))
        codes = all_classes.encode(dataset.table)
        counts = {c: int((codes[subjects] == i).sum()) for i, c in enumerate(all_classes.classes) if (codes == i).any()}
        if min(counts.values()) < 2:
            raise ValueError(
                f"label {name!r}: every class needs two training subjects, and there are {counts}: "
                f"take more of them (fraction), or {choices}"
            )
        return cls(table, tuple(counts))

    @property
    def column(self) -> Column:
        return self.table.schema.columns[0]

    @property
    def outputs(self) -> int:
        """Number of outputs of a network that predicts it: one per class, or one."""
        return len(self.classes) or 1

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """Rows of the table -> float64 [N]: the code of the class, or the standardised value; NaN
        where missing or of another class.
        """
        values, missing = (x[:, 0] for x in self.table.encode(table))
        target = values.astype(float)
        if self.classes:
            known = self.table.classes(self.column.name)
            code = np.array([self.classes.index(c) if c in self.classes else np.nan for c in known])
            target = code[values.astype(int)]
        return np.where(missing, np.nan, target)

    def in_unit(self, standardised: np.ndarray) -> np.ndarray:
        """Back to the unit of the column."""
        fitted = self.table.fitted[0]
        return np.asarray(standardised, float) * fitted.std + fitted.mean

    def of_network(self, output: np.ndarray) -> np.ndarray:
        """A network's outputs [N, outputs] -> probabilities [N, classes], or values [N] in the unit
        of the column.
        """
        output = np.asarray(output, float)
        if not self.classes:
            return self.in_unit(output[:, 0])
        odds = np.exp(output - output.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def of_target(self, target: np.ndarray) -> np.ndarray:
        """Targets as scores compare them: codes as int, or values in the unit of the column."""
        return target.astype(int) if self.classes else self.in_unit(target)

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table.to_json(), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(TableEncoder.from_json(state["table"]), tuple(state["classes"]))
