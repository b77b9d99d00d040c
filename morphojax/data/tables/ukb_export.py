"""A table as UK Biobank exports it (CSV, TSV or Parquet) -> one row per participant, and a schema.

`ukb_headers` matches headers to the fields of `ukb_fields`; `ukb_values` turns cells into values.
"""

import csv
import warnings
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from morphojax.data.tables.delimited import delimiter
from morphojax.data.tables.schema import Schema, TableError
from morphojax.data.tables.ukb_fields import described
from morphojax.data.tables.ukb_headers import IDS, UkbTableSpec, choose_headers, id_column, match_headers
from morphojax.data.tables.ukb_values import combine, participants

# In a column of texts an empty cell alone is missing, as in every other table: "None" and "NA" are
# classes. A missing number or code may also be one of R's and others' words.
_EMPTY = ("",)
_MISSING = (
    *(*_EMPTY, "NA", "N/A", "n/a", "#NA", "#N/A", "#N/A N/A", "<NA>", "NULL", "null", "None"),
    *("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)


def is_export(path: Path) -> bool:
    """Whether the table has a column of participant ids (`IDS`) and no column `subject`.

    Raises TableError where the file cannot be read or has no header.
    """
    if not _is_parquet(path):
        header = _first_line(path)
        if "subject" in (name.strip() for name in header):
            return False
    header = _read_header(path)
    return "subject" not in header and id_column(header) is not None


def read_export(
    path: Path, spec: UkbTableSpec | None = None, dictionary: Path | None = None
) -> tuple[pd.DataFrame, Schema]:
    """Rows indexed by participant id (text), and their schema. Only the needed columns are read.

    spec: which fields, at which visit; by default all known fields at the first imaging visit.
    dictionary: a data dictionary that changes fields of the registry or adds others
        (`ukb_fields.described`). A column that it describes by header only is always read.

    Repeated readings (the array of a field) give the mean of a number, or the first class. Codes
    that mean "no answer" are missing; "less than one" counts as one half.

    Raises TableError for a file that cannot be read, rows longer or shorter than the header, ids
    that are repeated or that a spreadsheet damaged, one field under two headers, a title of several
    fields, text in a number, or nothing to read. The message never contains an id.
    """
    spec = spec or UkbTableSpec()
    header = _read_header(path)
    key = id_column(header)
    if key is None:
        raise TableError(f"no column of participant ids ({', '.join(IDS)}) in the header")
    fields, by_header = described(dictionary)
    matches = match_headers(header, fields, skipped={field.column.name for field in by_header})
    chosen = choose_headers(matches, fields, spec)
    if absent := [field.column.name for field in by_header if field.column.name not in header]:
        raise TableError(
            f"the dictionary describes {absent[0]!r}, which is neither a header of the file nor a field of the registry"
        )
    if not chosen and not by_header:
        raise TableError(
            f"no field of the registry at instance {spec.visit}; choose another visit, or fields that the file contains"
        )
    columns = [(fields[i], headers) for i, headers in chosen.items()]
    columns += [(field, [field.column.name]) for field in by_header]
    texts = [h for field, headers in columns if field.holds_texts for h in headers]
    frame = _read_columns(path, key, [h for _, headers in columns for h in headers], texts)
    try:
        frame.index = pd.Index(participants(frame.pop(key), key), name=None, dtype=object)
        values = {field.column.name: combine([frame[h] for h in headers], field) for field, headers in columns}
    except OverflowError as error:
        raise TableError("holds a number that is too large for a float; correct it and export it again") from error
    except (pa.ArrowException, UnicodeError) as error:  # Parquet's texts are not checked when they are read
        raise TableError(f"holds texts that are not UTF-8 ({type(error).__name__}); export it again") from error
    return pd.DataFrame(values, index=frame.index), Schema(tuple(field.column for field, _ in columns))


def _separator(path: Path) -> str:
    with path.open("rb") as file:
        return "\t" if b"\t" in file.readline() else ","


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _first_line(path: Path) -> list[str]:
    """The cells of the first line that is not empty. Raises TableError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=delimiter(path))
            return next((cells for cells in lines if any(c.strip() for c in cells)), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"cannot be read as a table ({error}); export it as UTF-8 CSV, TSV or Parquet") from error


def _read_header(path: Path) -> list[str]:
    try:
        if _is_parquet(path):
            header = list(pa.parquet.read_schema(path).names)
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = next(csv.reader(file, delimiter=_separator(path), strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise TableError(f"cannot be read as a table ({error}); export it as UTF-8 CSV, TSV or Parquet") from error
    if not any(h.strip() for h in header):
        raise TableError("cannot be read as a table: the file or its first line is empty; export it again")
    if len(set(header)) < len(header):
        repeated = sorted({h for h in header if header.count(h) > 1})
        raise TableError(f"the header {repeated[0]!r} appears twice; keep one column")
    return header


def _read_columns(path: Path, key: str, headers: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    """The columns `key` and `headers`; those of `texts` as the texts in the file."""
    columns = [key, *headers]
    try:
        if _is_parquet(path):
            frame = pd.read_parquet(path, columns=columns)
            if list(frame.columns) != columns:  # pandas stored one of the columns as its index
                raise ValueError("its columns are not those of its header")
            return frame
        separator = _separator(path)
        types: dict[Hashable, Any] = dict.fromkeys([key, *texts], str)
        missing = dict.fromkeys(columns, _MISSING) | dict.fromkeys(texts, _EMPTY)
        with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
            # pandas reads in chunks, to save memory, so a column may be numbers in one chunk and
            # texts in another. `ukb_values` accepts both.
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            line_check = pool.submit(_check_lines, path, separator)
            try:
                return pd.read_csv(
                    path,
                    sep=separator,
                    usecols=columns,
                    index_col=False,
                    dtype=types,
                    keep_default_na=False,
                    na_values=missing,
                    encoding="utf-8-sig",
                )[columns]
            finally:
                line_check.result()  # its error says more than the parser's
    except TableError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
        # The parser's own message may quote a cell, and so an id.
        raise TableError(f"cannot be read as a table ({type(error).__name__}); export it again as UTF-8") from error


def _check_lines(path: Path, separator: str) -> None:
    """Raises TableError for a row longer or shorter than the header.

    With `usecols`, pandas accepts such rows silently and shifts their cells.
    """
    expected = None
    with path.open("rb", buffering=1 << 22) as file:
        for line, cells in _count_cells(file, separator.encode()):
            expected = expected or cells
            if cells != expected:
                raise TableError(
                    f"line {line} has {cells} columns under a header of {expected}: an unquoted separator, or a truncated file; "
                    "export it again"
                )


def _count_cells(lines: Iterator[bytes], separator: bytes) -> Iterator[tuple[int, int]]:
    """(line, number of cells) of every row that is not blank; quoted cells may span lines."""
    row, start = b"", 1
    for number, line in enumerate(lines, 1):
        row = row + line if row else line
        quoted = b'"' in row
        if quoted and row.count(b'"') % 2:
            continue  # a quoted cell goes on in the next line
        if b"\0" in row or (not quoted and row.find(b"\r", 0, max(len(row) - 2, 0)) >= 0):
            raise TableError(f"line {start} contains a byte that no table has; export it again")
        if len(row) > 2 or row.strip():  # more than a line end
            characters = np.frombuffer(row, np.uint8)
            separators = characters == ord(separator)
            if quoted:
                separators &= ~np.logical_xor.accumulate(characters == ord('"'))
            yield start, int(np.count_nonzero(separators)) + 1
        row, start = b"", number + 1
    if row:
        raise TableError(f"line {start} opens a quotation that is never closed; export it again")
