"""Columns of a cohort's table that `prepare` measures on the subjects' own files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from morphojax.data.sources.base import CohortError, View
from morphojax.data.tables.schema import Column, Schema


@dataclasses.dataclass(frozen=True)
class Measured:
    """`of`: a subject's views -> values by name of a column; those left out are missing. It must pickle."""

    columns: tuple[Column, ...]
    of: Callable[[Mapping[str, View]], Mapping[str, float]]

    def check(self, schema: Schema) -> None:
        """Raises CohortError where the table has a column of the same name."""
        if twice := sorted({c.name for c in self.columns} & set(schema.names)):
            raise CohortError(f"the table has the columns {', '.join(twice)} already; rename them, or measure nothing")

    def join(
        self, rows: pd.DataFrame, schema: Schema, values: Sequence[Mapping[str, float]]
    ) -> tuple[pd.DataFrame, Schema]:
        """The rows and their schema, with the columns that any row has a value of. values: by row."""
        found = tuple(c for c in self.columns if any(c.name in v for v in values))
        new = pd.DataFrame(list(values), index=rows.index, columns=[c.name for c in found], dtype=float)
        return pd.concat([rows, new], axis=1), Schema((*schema.columns, *found))
