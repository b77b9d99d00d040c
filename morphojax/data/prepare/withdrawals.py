"""Leaves out subjects who withdrew from a cohort (`exclusion` removes them from a dataset).

A list of withdrawals holds one id per line, or is a CSV whose first column is the id. No message
contains an id.
"""

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.sources.base import CohortError, Source, Subject
from morphojax.data.tables.schema import Schema
from morphojax.data.tables.ukb_headers import IDS

_HEADERS = (*IDS, "subject", "id")
_ROUNDED = r"[-+]?[0-9]*[.,][0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE]\+?[0-9]+"


def read_list(path: str | Path) -> frozenset[str]:
    """The ids of a list of withdrawals; a header and blank lines are skipped.

    Raises CohortError for a file that cannot be read or holds no id, and for ids that a
    spreadsheet has rounded.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            cells = [(re.split(r"[;\t]", row[0])[0].strip(), n) for n, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(
            f"{path}: cannot be read as a list of ids ({error}); save it as text, one id per line"
        ) from error
    cells = [(text, line) for text, line in cells if text]
    if cells and cells[0][0].lower() in _HEADERS:
        cells = cells[1:]
    rounded = [line for text, line in cells if re.fullmatch(_ROUNDED, text)]
    if rounded:
        raise CohortError(
            f"{path}, line {rounded[0]}: a number with a point, not an id; a spreadsheet may have rounded it"
        )
    if not cells:
        raise CohortError(f"{path}: holds no id; list one id per line")
    return frozenset(text for text, _ in cells)


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
