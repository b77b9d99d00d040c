"""Table columns that `prepare` measures on the subjects' own files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from morphojax.data.sources.base import CohortError, View
from morphojax.data.tables.schema import Column, Schema


@dataclasses.dataclass(frozen=True)
class Measured:
    """Columns, and a function that measures them.

    of: a subject's views by plane -> values by column name; an absent column is missing. It must
        pickle, as worker processes call it.
    """

    columns: tuple[Column, ...]
    of: Callable[[Mapping[str, View]], Mapping[str, float]]

    def check(self, schema: Schema) -> None:
        """Raises CohortError where the table already has a column of the same name."""
        if duplicates := sorted({c.name for c in self.columns} & set(schema.names)):
            raise CohortError(
                f"the table has the columns {', '.join(duplicates)} already; rename them, or measure nothing"
            )

    def join(
        self, rows: pd.DataFrame, schema: Schema, values: Sequence[Mapping[str, float]]
    ) -> tuple[pd.DataFrame, Schema]:
        """The rows and their schema with the measured columns, except columns without any value.

        values: by row, as `of` returns them.
        """
        columns = tuple(c for c in self.columns if any(c.name in v for v in values))
        new = pd.DataFrame(list(values), index=rows.index, columns=[c.name for c in columns], dtype=float)
        return pd.concat([rows, new], axis=1), Schema((*schema.columns, *columns))
