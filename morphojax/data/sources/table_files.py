"""The table beside a cohort: a CSV with a key column and, for cohorts of free form, a data dictionary."""

import csv
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax.data.sources.base import CohortError, Folder
from morphojax.data.tables import ukb_export
from morphojax.data.tables.cells import check
from morphojax.data.tables.schema import Column, Schema, TableError, read_dictionary


def read_table(path: Path, key: str, schema: Schema | Path) -> tuple[pd.DataFrame, Schema]:
    """Rows of a CSV indexed by subject id (str), with the columns of the schema, and the schema.

    `schema` may be the path of a data dictionary. Raises CohortError for an unreadable file, a missing key column or
    described column, a repeated or empty id, or text in a numeric column.
    """
    try:
        if isinstance(schema, Path):
            schema = read_dictionary(schema)
        # Classes are read as texts: "01" stays "01".
        texts: dict[Hashable, Any] = {c.name: str for c in schema.columns if c.kind != "continuous"}
        texts[key] = str
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""], float_precision="round_trip")
        if key not in frame.columns:
            raise CohortError(f"{path}: no key column {key!r} among {', '.join(map(str, frame.columns))}")
        check(frame, schema)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(f"{path}: cannot be read as a CSV table ({error})") from error
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
            f"{path}: rows {first} and {second} (counting from 0) are of one {key} ({repeated.sum()} repeated in all); keep one each"
        )
    frame = frame.set_index(key)
    frame.index.name = None
    return frame[list(schema.names)], schema


def beside(folder: Folder) -> tuple[pd.DataFrame, Schema] | None:
    """The `table.csv` of a folder by its `dictionary.csv`, or those that are named in their place; None where there is no table.

    A table with a column of UK Biobank's participant ids is read as an export of theirs, which needs no dictionary.
    """
    path = choose(
        folder.table_path, folder.root / "table.csv", folder.root / "table.tsv", folder.root / "table.parquet"
    )
    if path is None:
        return None
    found = choose(folder.dictionary_path, path.parent / "dictionary.csv", folder.root / "dictionary.csv")
    try:
        if ukb_export.is_export(path):
            return ukb_export.read_export(path, folder.fields, folder.visit, found)
    except TableError as error:
        raise CohortError(f"{path}: {error}") from error
    if folder.fields:
        raise CohortError(
            f"{path}: has no column of UK Biobank's participant ids (eid), so no fields to choose; leave out --table_fields"
        )
    if found is None:
        raise CohortError(f"{path}: has no dictionary.csv beside it; write it or name it with --dictionary")
    return read_table(path, "subject", found)


def read_rows(path: Path, required: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """A CSV of texts: its header in lower case, and (line, cells by header) of the rows that hold anything.

    Raises CohortError for a file that cannot be read, a column that is required and absent or there twice, and a row of
    another length than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path}: cannot be read as a CSV table ({error}); save it as CSV, UTF-8") from error
    lines = [(line, cells) for line, cells in lines if any(cells)]
    header = tuple(name.lower() for name in lines[0][1]) if lines else ()
    absent = [name for name in required if name not in header]
    if absent:
        hint = "; save it with commas between the columns" if len(header) == 1 and ";" in header[0] else ""
        raise CohortError(f"{path}: no column {', '.join(absent)} among {', '.join(header) or 'none'}{hint}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise CohortError(f"{path}: the column {twice[0]} is there twice; remove one")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise CohortError(
                f"{path}, line {line}: {len(cells)} cells under a header of {len(header)}; quote a text that holds a comma"
            )
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def keyed(path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], key: str) -> dict[str, Mapping[str, str]]:
    """The rows of `read_rows` by their key. Raises CohortError for one that is empty or there twice."""
    found: dict[str, Mapping[str, str]] = {}
    for line, row in rows:
        if not row[key]:
            raise CohortError(f"{path}, line {line}: no {key}; fill it or remove the row")
        if row[key] in found:
            raise CohortError(f"{path}, line {line}: the {key} has a row already; keep one")
        found[row[key]] = row
    return found


def tabulate(
    path: Path, header: Sequence[str], rows: Mapping[str, Mapping[str, str]], columns: Mapping[str, Column]
) -> tuple[pd.DataFrame, Schema]:
    """The table that rows make: of `columns` (by header) those that are in the header. Raises CohortError as `read_table` does."""
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
    found = re.fullmatch(r"([0-9]{1,6})(\.0+)?", text)
    return int(found[1]) if found else None


def choose(given: str | Path | None, *candidates: Path) -> Path | None:
    """The path asked for, which must exist, else the first candidate that does, else None."""
    if given is not None:
        if not Path(given).is_file():
            raise CohortError(f"{given}: no such file; correct the path of the table or dictionary")
        return Path(given)
    return next((c for c in candidates if c.is_file()), None)


def folders(root: Path, holds: tuple[str, ...]) -> dict[str, Path]:
    """Name -> path of the subfolders that hold a file matching one of the patterns; CohortError where none does."""
    if not root.is_dir():
        raise CohortError(f"{root}: no such folder")
    found = {
        p.name: p
        for p in sorted(root.iterdir())
        if p.is_dir() and not p.name.startswith(".") and any(any(p.glob(pattern)) for pattern in holds)
    }
    if not found:
        raise CohortError(f"{root}: no subfolder holds {' or '.join(holds)}; is this the folder of the subjects?")
    return found
