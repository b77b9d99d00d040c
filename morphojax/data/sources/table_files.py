"""The table beside a cohort: a CSV with a dictionary or fixed schema, or a UK Biobank export."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.sources.base import CohortError, FolderSource
from morphojax.data.tables import ukb_export
from morphojax.data.tables.cells import check, numbers_of
from morphojax.data.tables.delimited import read_frame, read_lines
from morphojax.data.tables.dictionary import read_dictionary
from morphojax.data.tables.schema import Column, Schema, TableError
from morphojax.data.tables.ukb_headers import UkbTableSpec


class UkbTableSource(FolderSource):
    """Base class of the sources whose table may be an export of UK Biobank.

    export: which fields to read from such an export, and of which visit.
    """

    def __init__(
        self,
        root: str | Path,
        table: str | Path | None = None,
        dictionary: str | Path | None = None,
        frames: str = "phases",
        export: UkbTableSpec | None = None,
    ):
        super().__init__(root, table, dictionary, frames)
        self.export = export or UkbTableSpec()

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        return beside(self, self.export)


def beside(source: FolderSource, export: UkbTableSpec | None = None) -> tuple[pd.DataFrame, Schema] | None:
    """The table of a folder: its `table.csv` by its `dictionary.csv`, or the files named instead.

    A table with UK Biobank's participant ids is read as an export, which needs no dictionary.
    None where there is no table. Raises CohortError.
    """
    export = export or UkbTableSpec()
    path = choose(
        source.table_path, source.root / "table.csv", source.root / "table.tsv", source.root / "table.parquet"
    )
    if path is None:
        return None
    dictionary = choose(source.dictionary_path, path.parent / "dictionary.csv", source.root / "dictionary.csv")
    try:
        if ukb_export.is_export(path):
            return ukb_export.read_export(path, export, dictionary)
    except TableError as error:
        raise CohortError(f"{path}: {error}") from error
    if export.fields:
        raise CohortError(
            f"{path}: --table_fields needs a UK Biobank export, and this table has no participant ids (eid); "
            "leave out --table_fields"
        )
    if dictionary is None:
        raise CohortError(f"{path}: has no dictionary.csv beside it; write it or name it with --dictionary")
    return read_table(path, "subject", dictionary)


def read_table(path: Path, key: str, schema: Schema | Path) -> tuple[pd.DataFrame, Schema]:
    """Rows of a CSV indexed by subject id (str), with the columns of the schema, and the schema.

    `schema` may be the path of a data dictionary. Raises CohortError for an unreadable file, an
    absent key column or described column, a repeated or empty id, or text in a numeric column.
    """
    if isinstance(schema, Path):
        try:
            schema = read_dictionary(schema)
        except TableError as error:
            raise CohortError(str(error)) from error
    try:
        frame = read_frame(path)
        if key not in frame.columns:
            raise CohortError(f"{path}: no key column {key!r} among {', '.join(map(str, frame.columns))}")
        if key in schema.names:
            raise CohortError(f"{path}: the dictionary describes the key column {key!r}; remove it there")
        check(frame, schema)
        for column in schema.columns:
            if column.kind == "continuous":
                frame[column.name] = numbers_of(frame, column)
    except TableError as error:
        raise CohortError(f"{path}: {error}") from error
    if frame[key].isna().any():
        row = int(frame[key].isna().to_numpy().argmax())
        raise CohortError(f"{path}: row {row} (counting from 0) has no {key}; fill it or remove the row")
    repeated = frame[key].duplicated().to_numpy()
    if repeated.any():
        second = int(repeated.argmax())
        first = int((frame[key] == frame[key].iloc[second]).to_numpy().argmax())
        raise CohortError(
            f"{path}: rows {first} and {second} (counting from 0) have the same {key} ({repeated.sum()} repeated rows in all); "
            "keep one each"
        )
    frame = frame.set_index(key)
    frame.index.name = None
    return frame[list(schema.names)], schema


def read_rows(path: Path, required: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV in lower case, and (line, cells by header) of its non-empty rows.

    Raises CohortError for a file that cannot be read, a required column that is absent, a repeated
    column, and a row whose length differs from the header's.
    """
    try:
        names, lines = read_lines(path)
    except TableError as error:
        raise CohortError(f"{path}: {error}") from error
    header = tuple(name.lower() for name in names)
    absent = [name for name in required if name not in header]
    if absent:
        raise CohortError(f"{path}: no column {', '.join(absent)} among {', '.join(header)}")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise CohortError(f"{path}: the column {repeated[0]} appears twice; remove one")
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines]


def keyed(path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], key: str) -> dict[str, Mapping[str, str]]:
    """The rows of `read_rows` by their key. Raises CohortError for an empty or repeated key."""
    by_key: dict[str, Mapping[str, str]] = {}
    for line, row in rows:
        if not row[key]:
            raise CohortError(f"{path}, line {line}: no {key}; fill it or remove the row")
        if row[key] in by_key:
            raise CohortError(f"{path}, line {line}: this {key} already has a row; keep one")
        by_key[row[key]] = row
    return by_key


def tabulate(
    path: Path, header: Sequence[str], rows: Mapping[str, Mapping[str, str]], columns: Mapping[str, Column]
) -> tuple[pd.DataFrame, Schema]:
    """The table of `rows` (by subject), with those of `columns` (by header) that `header` contains.

    Raises CohortError as `read_table` does.
    """
    present = {name: column for name, column in columns.items() if name in header}
    schema = Schema(tuple(present.values()))
    cells = {column.name: [row[name] or None for row in rows.values()] for name, column in present.items()}
    frame = pd.DataFrame(cells, index=pd.Index(list(rows), dtype=object), dtype=object)
    try:
        check(frame, schema)
    except TableError as error:
        raise CohortError(f"{path}: {error}") from error
    numbers = [c.name for c in schema.columns if c.kind == "continuous"]
    return frame.astype(dict.fromkeys(numbers, float)), schema


def frame_number(text: str) -> int | None:
    """A frame number as people and spreadsheets write it ("7", "7.0"); None for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})(\.0+)?", text)
    return int(match[1]) if match else None


def choose(given: str | Path | None, *candidates: Path) -> Path | None:
    """`given`, which must exist; without it the first candidate that exists, else None."""
    if given is not None:
        if not Path(given).is_file():
            raise CohortError(f"{given}: no such file; correct the path of the table or dictionary")
        return Path(given)
    return next((c for c in candidates if c.is_file()), None)


def folders(root: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Name -> path of the subfolders with a matching file. Raises CohortError where none has."""
    if not root.is_dir():
        raise CohortError(f"{root}: no such folder")
    matches = {
        p.name: p
        for p in sorted(root.iterdir())
        if p.is_dir() and not p.name.startswith(".") and any(any(p.glob(pattern)) for pattern in patterns)
    }
    if not matches:
        raise CohortError(f"{root}: no subfolder holds {' or '.join(patterns)}; is this the folder of the subjects?")
    return matches
