"""Tables as UK Biobank exports them: any dialect of header, one value per participant and field.

`ukb_fields.csv` describes the fields that can become a column: it holds facts of the public data dictionary (Showcase), by field id,
as titles repeat. Dates, files and lists (diagnoses, several answers at once) are not among them. A column is named after title and id, as
`lv_ejection_fraction_24103`.
"""

import csv
import dataclasses
import functools
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from morphojax.data.tables.schema import Column, Schema, TableError, read_described

IDS = ("eid", "f.eid", "participant.eid", "n_eid", "participant id", "participant.participant id")
# Fields by id, in the dialects of ukbconv (CSV, R, Stata) and of the research platform.
_BY_ID = (
    re.compile(r"(?P<field>\d{1,9})-(?P<instance>\d{1,4})\.(?P<array>\d{1,4})", re.ASCII),
    re.compile(r"f\.(?P<field>\d{1,9})\.(?P<instance>\d{1,4})\.(?P<array>\d{1,4})", re.ASCII),
    re.compile(r"[a-z]+_(?P<field>\d{1,9})_(?P<instance>\d{1,4})_(?P<array>\d{1,4})", re.ASCII),
    re.compile(r"(?:participant\.)?p(?P<field>\d{1,9})(?:_i(?P<instance>\d{1,4}))?(?:_a(?P<array>\d{1,4}))?", re.ASCII),
)
_BY_TITLE = re.compile(
    r"(?:participant\.)?(?P<title>.+?)(?: \| Instance (?P<instance>\d{1,4}))?(?: \| Array (?P<array>\d{1,4}))?",
    re.ASCII | re.IGNORECASE,
)
PRESETS = ("published_118", "cardiac_morphometric")
LESS_THAN_ONE = -10.0  # the code of several counts; read as half
INSTANCE = 2  # the first visit with imaging


@dataclasses.dataclass(frozen=True)
class Field:
    """A field that can be read. `missing` are the codes that mean no answer; `less_than_one`: -10 means a count of less than one; `once`:
    asked at one visit alone, which exports number 0; `published`: of the table of Hager et al. 2023; `same_title`: ids of fields that
    cannot be read, and have its title."""

    id: int
    title: str
    column: Column
    missing: tuple[str, ...] = ()
    less_than_one: bool = False
    once: bool = False
    published: bool = False
    same_title: tuple[int, ...] = ()
    own: bool = False  # known from the user's dictionary alone


@functools.cache
def registry() -> Mapping[int, Field]:
    """The fields that morphojax knows, by id."""
    found = {}
    with resources.files("morphojax.data.tables").joinpath("ukb_fields.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            about = {key: row[key] for key in ("name", "kind", "group", "unit", "measures")}
            column = Column(
                **about,
                categories=_words(row["categories"]),
                leak=_words(row["leak"]),
                description=f"{row['title']} ({row['field']})",
            )
            flags = {key: row[key] == "yes" for key in ("less_than_one", "once", "published")}
            same = tuple(map(int, _words(row["same_title"])))
            field = Field(int(row["field"]), row["title"], column, _words(row["missing"]), same_title=same, **flags)
            found[field.id] = field
    return found


def _words(cell: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in cell.split(";") if w.strip())


@dataclasses.dataclass(frozen=True)
class Place:
    """What the header of a column says: field, visit (None where it names none) and place in an array."""

    field: int
    instance: int | None
    array: int


def is_export(path: Path) -> bool:
    """Whether the table has a column of participant ids in one of UK Biobank's spellings, and no column `subject`. Raises TableError where
    it has no header."""
    header = _header(path)
    return "subject" not in header and _id_column(header) is not None


def read_export(
    path: Path, fields: str = "", instance: int = INSTANCE, dictionary: Path | None = None
) -> tuple[pd.DataFrame, Schema]:
    """Rows indexed by participant id (text), and the meaning of the columns. Only the columns asked for are read.

    fields: "" for all of the registry that the file holds; words separated by commas, each an id or a preset: `published_118` (those
        fields of the table of Hager et al. 2023, arXiv:2303.14080, that are fields) or `cardiac_morphometric` (every measure of the heart,
        the scanner's own included, so that an ablation leaves none behind); or a file of such words. What a preset names may be absent
        from the file, an id may not.
    instance: the visit, 2 for the first with imaging. Fields asked once are read from instance 0.
    dictionary: a data dictionary (as `read_dictionary`) that describes fields anew or adds some. A row is about the field whose id is
        under `field`, else the one of the registry with its name, else the column with its name as header, which is always read. The codes
        that mean no answer may stand under `missing`, separated by semicolons; a field of the registry keeps its own where none do.

    Repeated readings of a number (the array of a field) are averaged over those present; of a class, the first is taken. Codes that
    mean no answer are missing; "less than one" counts one half.

    Raises TableError for a file that cannot be read, rows longer or shorter than the header, ids that are repeated or were damaged by a
    spreadsheet, one field under two headers, a title that several fields have, text in a number, or nothing to read. It names no id.
    """
    header = _header(path)
    key = _id_column(header)
    if key is None:
        raise TableError(f"no column of participant ids ({', '.join(IDS)}) in the header")
    known, direct = _described(dictionary)
    chosen = _chosen(_places(header, known, {f.column.name for f in direct}), known, fields, instance)
    if absent := [f.column.name for f in direct if f.column.name not in header]:
        raise TableError(
            f"the dictionary describes {absent[0]!r}, which is neither a header of the file nor a field of the registry"
        )
    if not chosen and not direct:
        raise TableError(
            f"no field of the registry at instance {instance}; choose another instance, or fields that the file holds"
        )
    found = [(known[i], headers) for i, headers in chosen.items()] + [(f, [f.column.name]) for f in direct]
    texts = [h for field, headers in found if field.column.kind != "continuous" and field.own for h in headers]
    frame = _read(path, key, [h for _, headers in found for h in headers], texts)
    frame.index = pd.Index(_participants(frame.pop(key), key), name=None, dtype=object)
    values = {field.column.name: _combine([frame[h] for h in headers], field) for field, headers in found}
    return pd.DataFrame(values, index=frame.index), Schema(tuple(field.column for field, _ in found))


def _described(dictionary: Path | None) -> tuple[Mapping[int, Field], list[Field]]:
    """The fields by id, as a dictionary leaves or makes them, and those that it knows by their header alone."""
    known, direct = dict(registry()), []
    by_name = {field.column.name: field for field in known.values()}
    for column, cells in read_described(dictionary, ("field", "missing")) if dictionary else ():
        text = cells["field"]
        if text and not re.fullmatch(r"[0-9]{1,9}", text):
            raise TableError(f"column {column.name!r}: field {text!r} is no field id, such as 24103")
        base = known.get(int(text)) if text else by_name.get(column.name)
        if base is not None:
            missing = _words(cells["missing"]) or base.missing
            halves = base.less_than_one and column.kind == "continuous"
            known[base.id] = dataclasses.replace(base, column=column, missing=missing, less_than_one=halves)
            continue
        field = Field(int(text or 0), column.description or column.name, column, _words(cells["missing"]), own=True)
        if text:
            known[field.id] = field
        else:
            direct.append(field)
        _codes(field)
    return known, direct


def _codes(field: Field) -> list[float]:
    try:
        return [float(code) for code in field.missing] if field.column.kind == "continuous" else []
    except ValueError:
        raise TableError(f"column {field.column.name!r}: missing {';'.join(field.missing)!r} are no numbers") from None


def _separator(path: Path) -> str:
    with path.open("rb") as file:
        return "\t" if b"\t" in file.readline() else ","


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _header(path: Path) -> list[str]:
    try:
        if _is_parquet(path):
            header = list(pa.parquet.read_schema(path).names)
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = next(csv.reader(file, delimiter=_separator(path), strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise TableError(f"cannot be read as a table ({error}); export it as UTF-8 CSV, TSV or Parquet") from error
    if not any(h.strip() for h in header):
        raise TableError("cannot be read as a table: it is empty, or its first line is; export it again")
    if len(set(header)) < len(header):
        repeated = sorted({h for h in header if header.count(h) > 1})
        raise TableError(f"the header {repeated[0]!r} stands there twice; keep one column")
    return header


def _id_column(header: Sequence[str]) -> str | None:
    found = [h for h in header if h.strip().lower() in IDS]
    if len(found) > 1:
        raise TableError(f"{found[0]!r} and {found[1]!r} are both participant ids; keep one")
    return found[0] if found else None


def _places(header: Sequence[str], known: Mapping[int, Field], taken: set[str]) -> dict[str, list[Place]]:
    """Which field stands under a header: several where the header is a title that they share. Headers in `taken` are none."""
    titles: dict[str, list[int]] = {}
    for field in known.values():
        for i in (field.id, *field.same_title):
            titles.setdefault(field.title.lower(), []).append(i)
    found: dict[str, list[Place]] = {}
    for text in header:
        match = next((m for p in _BY_ID if (m := p.fullmatch(text.strip()))), None)
        if match:
            ids = [int(match["field"])]
        else:
            match = _BY_TITLE.fullmatch(text.strip())
            ids = titles.get(match["title"].lower(), []) if match else []
        if match is None or text in taken or not any(i in known for i in ids):
            continue
        instance = int(match["instance"]) if match["instance"] else None
        found[text] = [Place(i, instance, int(match["array"] or 0)) for i in ids]
    return found


def _chosen(
    places: Mapping[str, Sequence[Place]], known: Mapping[int, Field], fields: str, instance: int
) -> dict[int, list[str]]:
    """Field -> its headers at the visit, in the order of the registry and of the array."""
    wanted, named = _wanted(fields, known)
    found: dict[int, dict[int, str]] = {}
    for text, several in places.items():
        here = [p for p in several if p.field in wanted]
        if not here or all(p.instance not in (None, _visit(known[p.field], instance)) for p in here):
            continue
        if len(several) > 1:
            raise TableError(
                f"{text!r} is the title of several fields ({', '.join(str(p.field) for p in several)}); export it with ids as headers, or "
                "describe it in a dictionary"
            )
        place = here[0]
        taken = found.setdefault(place.field, {})
        if place.array in taken:
            raise TableError(f"{taken[place.array]!r} and {text!r} are the same field; keep one")
        taken[place.array] = text
    if absent := sorted(named - set(found)):
        raise TableError(
            f"field {absent[0]} is not there at instance {instance} (of {len(named)} named, {len(absent)} are absent)"
        )
    return {i: [text for _, text in sorted(found[i].items())] for i in known if i in found}


def _visit(field: Field, instance: int) -> int:
    return 0 if field.once else instance


def _wanted(fields: str, known: Mapping[int, Field]) -> tuple[set[int], set[int]]:
    """The ids that `fields` asks for, and those among them that must be there."""
    if not fields:
        return set(known), {i for i, field in known.items() if field.own}
    words = re.split(r"[\s,]+", _content(fields))
    wanted, named = set[int](), set[int]()
    for word in filter(None, words):
        if word == "published_118":
            wanted |= {i for i, field in known.items() if field.published}
        elif word == "cardiac_morphometric":
            wanted |= {i for i, field in known.items() if field.column.group == word}
        elif re.fullmatch(r"[0-9]{1,9}", word) and int(word) in known:
            named.add(int(word))
        else:
            raise TableError(
                f"{word!r} is no field of the registry; name ids, a file of ids, or a preset: {', '.join(PRESETS)}"
            )
    if not wanted | named:
        raise TableError(f"{fields!r} names no field")
    return wanted | named, named


def _content(fields: str) -> str:
    try:
        return Path(fields).read_text(encoding="utf-8-sig") if Path(fields).is_file() else fields
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{fields}: cannot be read as a list of fields ({error})") from error


def _read(path: Path, key: str, headers: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    """The columns, `texts` as they are written."""
    columns = [key, *headers]
    try:
        if _is_parquet(path):
            frame = pd.read_parquet(path, columns=columns)
            if list(frame.columns) != columns:  # a column that pandas has stored as its index
                raise ValueError("its columns are not those of its header")
            return frame
        separator = _separator(path)
        types: dict[Hashable, Any] = dict.fromkeys([key, *texts], str)
        with ThreadPoolExecutor(1) as beside, warnings.catch_warnings():
            # Read in chunks, which keeps memory small, a column may come out as numbers here and texts there: both are looked at.
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            lines = beside.submit(_check_lines, path, separator)
            try:
                return pd.read_csv(
                    path, sep=separator, usecols=columns, index_col=False, dtype=types, encoding="utf-8-sig"
                )[columns]
            finally:
                lines.result()  # what it raises says more than the parser does
    except TableError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
        # What a parser tells of a cell may be an id.
        raise TableError(f"cannot be read as a table ({type(error).__name__}); export it again as UTF-8") from error


def _check_lines(path: Path, separator: str) -> None:
    """Raises TableError for a row longer or shorter than the header: told which columns to read, pandas takes both, shifted as they are."""
    expected = None
    with path.open("rb", buffering=1 << 22) as file:
        for line, cells in _count_cells(file, separator.encode()):
            expected = expected or cells
            if cells != expected:
                raise TableError(
                    f"line {line} has {cells} columns under a header of {expected}: an unquoted separator, or a file cut short"
                )


def _count_cells(lines: Iterator[bytes], separator: bytes) -> Iterator[tuple[int, int]]:
    """(line, number of cells) of every row that is not blank; a quoted cell may hold separators and line ends."""
    row, start = b"", 1
    for number, line in enumerate(lines, 1):
        row = row + line if row else line
        quoted = b'"' in row
        if quoted and row.count(b'"') % 2:
            continue
        if b"\0" in row or (not quoted and row.find(b"\r", 0, max(len(row) - 2, 0)) >= 0):
            raise TableError(f"line {start} holds a byte that no table has; export it again")
        if len(row) > 2 or row.strip():  # more than a line end
            bytes_ = np.frombuffer(row, np.uint8)
            here = bytes_ == ord(separator)
            if quoted:
                here &= ~np.logical_xor.accumulate(bytes_ == ord('"'))
            yield start, int(np.count_nonzero(here)) + 1
        row, start = b"", number + 1
    if row:
        raise TableError(f"line {start} opens a quotation that nothing closes; export it again")


def _participants(ids: pd.Series, key: str) -> pd.Series:
    """Ids as texts of digits. Errors tell rows, counted from 0, and never an id."""
    if pd.api.types.is_float_dtype(ids) and (ids == np.floor(ids)).all():
        ids = ids.astype("int64")
    texts = ids.astype("string").str.strip()

    def row(bad: pd.Series) -> int:
        return int(np.argmax(bad.to_numpy(bool)))

    if (again := (texts.str.lower() == key.strip().lower()).fillna(False)).any():
        raise TableError(
            f"row {row(again)} is the header again (of {again.sum()}): files were joined; keep the first header alone"
        )
    if (bad := ~texts.str.fullmatch(r"[0-9]+").fillna(False)).any():
        raise TableError(
            f"row {row(bad)} has no participant id of digits alone ({bad.sum()} rows): an empty line, or ids that a spreadsheet rounded "
            "(1.23E+06); export it again and do not save it from a spreadsheet"
        )
    if len(lengths := texts.str.len().value_counts()) > 1:
        raise TableError(
            f"ids have {' and '.join(map(str, sorted(lengths.index)))} digits: some lost digits; export it again"
        )
    if (repeated := texts.duplicated()).any():
        raise TableError(f"row {row(repeated)} repeats a participant ({repeated.sum()} rows in all); keep one row each")
    if texts.empty:
        raise TableError("it has a header and no rows; export it again")
    return texts.astype(str)


def _numbers(values: pd.Series) -> pd.Series:
    """Float64, NaN where missing."""
    if pd.api.types.is_float_dtype(values) and np.isfinite(values.max()) and np.isfinite(values.min()):
        return values.astype(float)  # as most are, and quickly seen to be
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = values.notna() & numbers.isna()
    if values.dtype == object:
        wrong |= values.map(lambda cell: isinstance(cell, bool))
    elif values.dtype == bool:
        wrong |= True
    numbers = numbers.astype(float)
    if (wrong := wrong.to_numpy(bool) | np.isinf(numbers.to_numpy())).any():
        raise TableError(
            f"{values.name!r}: {wrong.sum()} entries are no numbers, the first in row {int(np.argmax(wrong))} (a date made by a "
            "spreadsheet?); export it again"
        )
    return numbers


def _texts(values: pd.Series) -> dict[Any, str]:
    """The different codes of a column, as texts: 1, 1.0 and "1" are "1"; a text that is no number stays."""
    unique = values.dropna().unique()
    numbers = pd.to_numeric(pd.Series(unique, dtype=object), errors="coerce")
    return {v: f"{n:.0f}" if n == np.round(n) else str(v).strip() for v, n in zip(unique, numbers, strict=True)}


def _combine(readings: Sequence[pd.Series], field: Field) -> pd.Series:
    """One value of the readings of a field: their mean, or, of classes, the first."""
    if field.column.kind != "continuous":
        answers = [_answers(values, field) for values in readings]
        return functools.reduce(lambda first, second: first.where(first.notna(), second), answers)
    codes = _codes(field)
    numbers = [_numbers(values) for values in readings]
    numbers = [n.mask(n.isin(codes)) for n in numbers] if codes else numbers
    numbers = [n.replace(LESS_THAN_ONE, 0.5) for n in numbers] if field.less_than_one else numbers
    return numbers[0] if len(numbers) == 1 else pd.concat(numbers, axis=1).mean(axis=1)


def _answers(values: pd.Series, field: Field) -> pd.Series:
    """The classes of one reading, as texts, NaN where there is no answer. What the user's dictionary alone knows stays as it is written."""
    texts = {v: str(v).strip() for v in values.dropna().unique()} if field.own else _texts(values)
    known = {*field.missing, *field.column.classes, ""}
    wrong = [v for v, text in texts.items() if not (field.own or text in known or re.fullmatch(r"-?[0-9]+", text))]
    if wrong:
        rows = values.isin(wrong).to_numpy()
        raise TableError(
            f"{values.name!r}: {rows.sum()} entries are no codes, the first in row {int(np.argmax(rows))}; export codes (raw values), "
            "not their meanings"
        )
    return values.map({v: t for v, t in texts.items() if t and t not in field.missing}).astype(object)
