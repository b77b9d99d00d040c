"""Leaves out subjects who withdrew from a cohort (`exclusion` removes them from a dataset).

A list of withdrawals holds one id per line, or is a CSV with a column of ids. No message contains
an id.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.sources.base import CohortError, Source, Subject
from morphojax.data.tables.delimited import read_cells
from morphojax.data.tables.schema import Schema, TableError
from morphojax.data.tables.ukb_headers import IDS

_HEADERS = (*IDS, "subject", "id")
_QUOTES = " \"'\u2018\u2019\u201c\u201d,;"  # what may surround an id
# Two ids, or a number that a spreadsheet has rounded or whose digits it has grouped.
_NO_ID = re.compile(
    r".*[,;\t].*|[0-9]+\s.*|[-+]?[0-9]*\.[0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE]\+?[0-9]+|\+[0-9]+|[0-9]{1,3}([.'][0-9]{3})+"
)


def read_list(path: str | Path) -> frozenset[str]:
    """The ids of a list of withdrawals; blank lines, and quotes around an id, are skipped.

    A header may name the column of ids; without it every line holds one id and nothing else.

    Raises CohortError, naming the line, for whatever might be an id and cannot be read as one: a
    subject who withdrew would silently stay.
    """
    try:
        lines = read_cells(Path(path))
    except TableError as error:
        raise CohortError(f"{path}: {error}, one id per line") from error
    lines = [(line, [cell.strip(_QUOTES) for cell in cells]) for line, cells in lines]
    lines = [(line, cells) for line, cells in lines if any(cells)]
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    columns = [i for i, name in enumerate(header) if name in _HEADERS]
    if len(columns) > 1:
        named = ", ".join(header[i] for i in columns)
        raise CohortError(f"{path}, line {lines[0][0]}: {len(columns)} columns of ids ({named}); keep one")
    column, width = (columns[0], len(header)) if columns else (0, 1)
    ids = [_id_of(f"{path}, line {line}", cells, column, width) for line, cells in lines[len(columns) :]]
    if not ids:
        raise CohortError(f"{path}: holds no id; list one id per line")
    return frozenset(ids)


def _id_of(where: str, cells: Sequence[str], column: int, width: int) -> str:
    """The id of a line, in one of up to `width` cells. Raises CohortError; `where` begins it."""
    if any(cells[width:]):
        raise CohortError(
            f"{where}: several cells, and none is known to be the id; write one id per line, or name the column of ids "
            "eid, subject or id in the first line"
        )
    text = cells[column] if column < len(cells) else ""
    if not text:
        raise CohortError(f"{where}: no id in the column of ids; write it there or remove the line")
    if not text.isprintable():
        raise CohortError(f"{where}: characters that no id has; save the list as plain text, UTF-8, one id per line")
    if _NO_ID.fullmatch(text):
        raise CohortError(
            f"{where}: a number with a point, or several words, not an id; a spreadsheet may have rounded it; "
            "write one id per line, as it is in the cohort"
        )
    return text


@dataclasses.dataclass(frozen=True)
class Without:
    """A source without the subjects of a list.

    Their images are not read, and neither the table nor the published split contains them.
    """

    source: Source
    excluded: frozenset[str]

    @property
    def root(self) -> Path:
        return self.source.root

    @property
    def frames(self) -> str:
        return self.source.frames

    def subjects(self) -> Sequence[str]:
        kept = [i for i in self.source.subjects() if i not in self.excluded]
        if not kept:
            raise CohortError(f"{self.root}: every subject is on the list of exclusions; nothing is left to prepare")
        return kept

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        return self.source.read(subject, planes)

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        table = self.source.table()
        return (table[0][~table[0].index.isin(list(self.excluded))], table[1]) if table else None

    def splits(self) -> Mapping[str, str] | None:
        splits = self.source.splits()
        return {i: split for i, split in splits.items() if i not in self.excluded} if splits else splits

    def count_present(self) -> int:
        """How many ids of the list have images or a table row in the cohort."""
        table = self.source.table()
        return len(self.excluded & {*self.source.subjects(), *(table[0].index if table else ())})
