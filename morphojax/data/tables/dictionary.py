"""Data dictionaries: CSV files that describe the columns of a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphojax.data.tables.delimited import read_lines
from morphojax.data.tables.schema import DICTIONARY_FIELDS, Column, Schema, TableError, column_of


def read_dictionary(path: str | Path) -> Schema:
    """Reads a data dictionary: a CSV with name, kind, group and any others of DICTIONARY_FIELDS.

    Semicolons separate several categories or leaks. Raises TableError naming the file and line.
    """
    return Schema(tuple(column for column, _ in read_described(path)))


def read_described(path: str | Path, extra: Sequence[str] = ()) -> list[tuple[Column, dict[str, str]]]:
    """The columns of a data dictionary, each with its cells under the optional headers `extra`.

    An absent header gives "". Raises TableError as `read_dictionary` does.
    """
    path = Path(path)
    try:
        header, lines = read_lines(path)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    unknown, absent = set(header) - {*DICTIONARY_FIELDS, *extra}, set(DICTIONARY_FIELDS[:3]) - set(header)
    if unknown or absent:
        raise TableError(f"{path}: the header is {list(header)}; expected {', '.join((*DICTIONARY_FIELDS, *extra))}")
    described: list[tuple[Column, dict[str, str]]] = []
    for line, row in lines:
        fields: dict[str, Any] = dict(zip(header, row, strict=True))
        cells = {key: fields.pop(key, "") for key in extra}
        for key in ("categories", "leak"):
            fields[key] = [w.strip() for w in fields.get(key, "").split(";") if w.strip()]
        try:
            described.append((column_of(fields), cells))
        except TableError as error:
            raise TableError(f"{path}, line {line}: {error}") from error
    try:
        Schema(tuple(column for column, _ in described))
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    return described
