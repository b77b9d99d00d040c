"""Tables as people and spreadsheets save them, with commas, semicolons or tabs between cells."""

import csv
import re
from pathlib import Path

import pandas as pd

from morphojax.data.tables.schema import TableError

_DELIMITERS = (",", ";", "\t")
_HINT = re.compile(r"sep=.?,?")  # a first line for Excel, which names the delimiter
Line = tuple[int, list[str]]  # its number in the file, and its cells without blanks around them


def read_lines(path: Path) -> tuple[tuple[str, ...], list[Line]]:
    """The header, and the other lines that are not empty; each has as many cells as the header.

    The delimiter is the one of comma, semicolon and tab that the header has most of. UTF-8, with or
    without a byte order mark. Empty cells beyond the header, as spreadsheets append them, are cut.

    Raises TableError, which does not name the file, where it cannot be read or is empty, for a
    repeated column, and for a line whose length differs from the header's.
    """
    lines = read_cells(path)
    header = _without_end(lines[0][1], 0) if lines else []
    if not header:
        raise TableError("is empty; the first line must name the columns")
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise TableError(f"the column {repeated[0]} appears twice; remove one")
    lines = [(line, _without_end(cells, len(header))) for line, cells in lines[1:]]
    for line, cells in lines:
        if len(cells) != len(header):
            raise TableError(
                f"line {line}: {len(cells)} cells under a header of {len(header)}; "
                "quote a text that contains the delimiter, and write numbers with a decimal point"
            )
    return tuple(header), lines


def read_cells(path: Path) -> list[Line]:
    """The lines that are not empty, of a file with or without a header, as `read_lines` reads them.

    Raises TableError, which does not name the file and quotes no cell, where it cannot be read.
    """
    start, lines = 1, []  # start: the line on which a row begins
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter(path), strict=True)
            for row in reader:
                lines.append((reader.line_num, [cell.strip() for cell in row]))
                start = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        where = f"line {start}: " if isinstance(error, csv.Error) else ""
        raise TableError(f"cannot be read as a table ({where}{error}); save it as CSV, UTF-8") from error
    return [(line, cells) for line, cells in lines if any(cells) and not _HINT.fullmatch(",".join(cells))]


def _without_end(cells: list[str], least: int) -> list[str]:
    """The cells without empty ones at the end, but at least so many."""
    length = len(cells)
    while length > least and not cells[length - 1]:
        length -= 1
    return cells[:length]


def read_frame(path: Path) -> pd.DataFrame:
    """The table as texts; empty cells are None. Raises TableError as `read_lines` does."""
    header, lines = read_lines(path)
    return pd.DataFrame([[cell or None for cell in cells] for _, cells in lines], columns=list(header), dtype=object)


def delimiter(path: Path) -> str:
    """The delimiter of a table, by its header. Raises OSError and UnicodeDecodeError."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip(" ,;\t\r\n") and not _HINT.fullmatch(line.strip())), "")
    return max(_DELIMITERS, key=first.count)  # the first of them where none occurs
