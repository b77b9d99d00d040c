"""Tables as people and spreadsheets save them, with commas, semicolons or tabs between cells."""

import contextlib
import csv
import re
from collections.abc import Generator
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
    with contextlib.closing(_lines(path)) as lines:
        header = next(lines)[1]
        return tuple(header), list(lines)


def read_frame(path: Path) -> pd.DataFrame:
    """The table as texts; empty cells are None. Raises TableError as `read_lines` does."""
    header, lines = read_lines(path)
    return pd.DataFrame([[cell or None for cell in cells] for _, cells in lines], columns=list(header), dtype=object)


def _lines(path: Path) -> Generator[Line, None, None]:
    """The header and the other lines, as `read_lines` says."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter(path), strict=True)
            stripped = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
            filled = ((line, cells) for line, cells in stripped if any(cells) and not _HINT.fullmatch(",".join(cells)))
            first, header = next(filled, (0, []))
            while header and not header[-1]:
                header.pop()
            if not header:
                raise TableError("is empty; the first line must name the columns")
            if repeated := sorted({name for name in header if name and header.count(name) > 1}):
                raise TableError(f"the column {repeated[0]} appears twice; remove one")
            yield first, header
            for line, cells in filled:
                while len(cells) > len(header) and not cells[-1]:
                    cells.pop()
                if len(cells) != len(header):
                    raise TableError(
                        f"line {line}: {len(cells)} cells under a header of {len(header)}; "
                        "quote a text that contains the delimiter, and write numbers with a decimal point"
                    )
                yield line, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(error) from error


def delimiter(path: Path) -> str:
    """The delimiter of a table, by its header. Raises OSError and UnicodeDecodeError."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip(" ,;\t\r\n") and not _HINT.fullmatch(line.strip())), "")
    return max(_DELIMITERS, key=first.count)  # the first of them where none occurs


def _unreadable(error: Exception) -> TableError:
    return TableError(f"cannot be read as a table ({error}); save it as CSV, UTF-8")
