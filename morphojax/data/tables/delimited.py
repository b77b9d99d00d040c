"""Tables as people and spreadsheets save them, with commas, semicolons or tabs between cells."""

import contextlib
import csv
from collections.abc import Generator, Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax.data.tables.schema import TableError

_DELIMITERS = (",", ";", "\t")
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


def read_frame(path: Path, texts: tuple[str, ...]) -> pd.DataFrame:
    """The table as a frame; the columns `texts` hold text, the others what pandas makes of them.

    Only empty cells are missing. Raises TableError as `read_lines` does.
    """
    with contextlib.closing(_lines(path)) as lines:
        first, header = next(lines)
        for _ in lines:  # checks the lengths, which pandas would repair without a word
            pass
    classes: dict[Hashable, Any] = dict.fromkeys((t for t in texts if t in header), str)
    try:
        frame = pd.read_csv(
            path,
            sep=_delimiter(path),
            names=header,
            header=None,
            skiprows=first,
            index_col=False,
            usecols=range(len(header)),
            dtype=classes,
            keep_default_na=False,
            na_values=[""],
            skipinitialspace=True,
            float_precision="round_trip",
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    for name in texts:
        if name in header:
            frame[name] = frame[name].str.strip().replace("", None)
    return frame.dropna(how="all", ignore_index=True)


def _lines(path: Path) -> Generator[Line, None, None]:
    """The header and the other lines, as `read_lines` says."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=_delimiter(path), strict=True)
            stripped = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
            filled = ((line, cells) for line, cells in stripped if any(cells))
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


def _delimiter(path: Path) -> str:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip(" ,;\t\r\n")), "")
    return max(_DELIMITERS, key=first.count)  # the first of them where none occurs


def _unreadable(error: Exception) -> TableError:
    return TableError(f"cannot be read as a table ({error}); save it as CSV, UTF-8")
