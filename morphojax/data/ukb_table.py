"""Tables as UK Biobank exports them: any dialect of header, one value per participant and field.

`ukb_fields.csv` describes the fields that can become a column: it holds facts of the public data dictionary (Showcase), by field id,
as titles repeat. Dates, files and lists (diagnoses, several answers at once) are not among them. A column is named after title and id, as
`lv_ejection_fraction_24103`.
"""

import csv
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from morphojax.data.table import Column, Schema, TableError, read_dictionary

IDS = ("eid", "f.eid", "participant.eid", "n_eid", "participant id", "participant.participant id")
# Fields by id, in the dialects of ukbconv (CSV, R, Stata) and of the research platform.
_BY_ID = (
    re.compile(r"(?P<field>\d+)-(?P<instance>\d+)\.(?P<array>\d+)"),
    re.compile(r"f\.(?P<field>\d+)\.(?P<instance>\d+)\.(?P<array>\d+)"),
    re.compile(r"[a-z]+_(?P<field>\d+)_(?P<instance>\d+)_(?P<array>\d+)"),
    re.compile(r"(?:participant\.)?p(?P<field>\d+)(?:_i(?P<instance>\d+))?(?:_a(?P<array>\d+))?"),
)
_BY_TITLE = re.compile(
    r"(?:participant\.)?(?P<title>.+?)(?: \| Instance (?P<instance>\d+))?(?: \| Array (?P<array>\d+))?"
)
PRESETS = ("published_118", "cardiac_morphometric")
LESS_THAN_ONE = -10.0  # the code of several counts; read as half


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the registry. `missing` are the codes that mean no answer; `once`: asked at the first visit (instance 0) alone."""

    id: int
    title: str
    column: Column
    missing: tuple[str, ...]
    less_than_one: bool
    once: bool
    published: bool


@functools.cache
def registry() -> Mapping[int, Field]:
    """The fields that morphojax knows, by id."""
    found = {}
    with resources.files("morphojax.data").joinpath("ukb_fields.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            words = {key: tuple(w for w in row[key].split(";") if w) for key in ("categories", "leak", "missing")}
            about = {key: row[key] for key in ("name", "kind", "group", "unit", "measures")}
            column = Column(
                **about,
                categories=words["categories"],
                leak=words["leak"],
                description=f"{row['title']} ({row['field']})",
            )
            flags = (row[key] == "yes" for key in ("less_than_one", "once", "published"))
            found[int(row["field"])] = Field(int(row["field"]), row["title"], column, words["missing"], *flags)
    return found


@dataclasses.dataclass(frozen=True)
class Place:
    """What the header of a column says: field, visit (None where it names none) and place in an array."""

    field: int
    instance: int | None
    array: int


def is_export(path: Path) -> bool:
    """Whether the table has a column of participant ids in one of UK Biobank's spellings. Raises TableError where it has no header."""
    return _id_column(_header(path)) is not None


def read_export(
    path: Path, fields: str = "", instance: int = 2, dictionary: Path | None = None
) -> tuple[pd.DataFrame, Schema]:
    """Rows indexed by participant id (text), and the meaning of the columns. Only the columns asked for are read.

    fields: "" for all of the registry that the file holds; a preset: `published_118` (those fields of the table of Hager et al. 2023,
        arXiv:2303.14080, that are fields) or `cardiac_morphometric` (every measure of the heart, the scanner's own included, so that an
        ablation leaves none behind); ids separated by commas; or a file of ids, one a line.
    instance: the visit, 2 for the first with imaging. Fields asked once are read from instance 0.
    dictionary: a data dictionary (as `read_dictionary`) whose names are those of registry columns, described anew, or headers of the file,
        read as they are.

    Repeated readings of a number (the array of a field) are averaged over those present; of a class, the first is taken. Codes that
    mean no answer are missing; "less than one" counts one half.

    Raises TableError for a file that cannot be read, ids that are repeated or were damaged by a spreadsheet, one field under two headers,
    text in a number, or nothing to read.
    """
    header = _header(path)
    key = _id_column(header)
    if key is None:
        raise TableError(f"no column of participant ids ({', '.join(IDS)}) in the header")
    extra = read_dictionary(dictionary) if dictionary else Schema(())
    chosen = _chosen(_places(header, {c.name for c in extra.columns}), fields, instance)
    known = {registry()[i].column.name for i in chosen}
    direct = [c for c in extra.columns if c.name not in known]
    if absent := [c.name for c in direct if c.name not in header]:
        raise TableError(
            f"the dictionary describes {absent[0]!r}, which is neither a header of the file nor a field read from it"
        )
    if not chosen and not direct:
        raise TableError(
            f"no field of the registry at instance {instance}; choose another instance, or fields that the file holds"
        )
    headers = [h for found in chosen.values() for h in found] + [c.name for c in direct]
    frame = _read(path, key, headers)
    frame.index = pd.Index(_participants(frame.pop(key), key))
    described = {c.name: c for c in extra.columns}
    columns, values = [], {}
    for field_id, found in chosen.items():
        field = registry()[field_id]
        column = described.get(field.column.name, field.column)
        columns.append(column)
        values[column.name] = _combine([frame[h] for h in found], field, column)
    for column in direct:
        columns.append(column)
        values[column.name] = frame[column.name] if column.kind == "continuous" else _classes(frame[column.name])
    return pd.DataFrame(values, index=frame.index), Schema(tuple(columns))


def _separator(path: Path) -> str:
    with path.open("rb") as file:
        first = file.readline()
    return "\t" if first.count(b"\t") > first.count(b",") else ","


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _header(path: Path) -> list[str]:
    try:
        if _is_parquet(path):
            return list(pa.parquet.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file, delimiter=_separator(path)), [])
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise TableError(f"cannot be read as a table ({error}); export it as UTF-8 CSV, TSV or Parquet") from error
    if not header:
        raise TableError("cannot be read as a table: it is empty; export it again")
    repeated = sorted({h for h in header if header.count(h) > 1}) if len(set(header)) < len(header) else []
    if repeated:
        raise TableError(f"the header {repeated[0]!r} stands there twice; keep one column")
    return header


def _id_column(header: Sequence[str]) -> str | None:
    return next((h for h in header if h.strip().lower() in IDS), None)


def _places(header: Sequence[str], taken: set[str]) -> dict[Place, str]:
    """Where the fields of the registry stand. Headers in `taken` are none of them."""
    titles: dict[str, list[int]] = {}
    for field in registry().values():
        titles.setdefault(field.title.lower(), []).append(field.id)
    found: dict[Place, str] = {}
    for text in header:
        match = next((m for p in _BY_ID if (m := p.fullmatch(text.strip()))), None)
        if match:
            ids = [int(match["field"])]
        else:
            match = _BY_TITLE.fullmatch(text.strip())
            ids = titles.get(match["title"].lower(), []) if match else []
        if text in taken or match is None or not ids or ids[0] not in registry():
            continue
        if len(ids) > 1:
            raise TableError(
                f"{text!r} is the title of several fields ({', '.join(map(str, ids))}); export with ids as headers, or describe it in "
                "a dictionary"
            )
        instance = int(match["instance"]) if match["instance"] else None
        place = Place(ids[0], instance, int(match["array"] or 0))
        if place in found:
            raise TableError(f"{found[place]!r} and {text!r} are the same field; keep one")
        found[place] = text
    return found


def _chosen(places: Mapping[Place, str], fields: str, instance: int) -> dict[int, list[str]]:
    """Field -> its headers at the visit, in the order of the registry and of the array."""
    wanted = _wanted(fields)
    found: dict[int, list[tuple[int, str]]] = {}
    for place, text in places.items():
        visit = 0 if registry()[place.field].once else instance
        if place.field in wanted and place.instance in (None, visit):
            found.setdefault(place.field, []).append((place.array, text))
    if fields and fields not in PRESETS and (absent := sorted(wanted - set(found))):
        raise TableError(
            f"field {absent[0]} is not there at instance {instance} (of {len(wanted)} asked for, {len(absent)} are absent)"
        )
    return {i: [text for _, text in sorted(found[i])] for i in registry() if i in found}


def _wanted(fields: str) -> set[int]:
    if not fields:
        return set(registry())
    if fields == "published_118":
        return {f.id for f in registry().values() if f.published}
    if fields == "cardiac_morphometric":
        return {f.id for f in registry().values() if f.column.group == fields}
    if Path(fields).is_file():
        fields = ",".join(Path(fields).read_text(encoding="utf-8-sig").split())
    words = [w.strip() for w in fields.split(",") if w.strip()]
    if unknown := [w for w in words if not w.isdecimal() or int(w) not in registry()]:
        raise TableError(
            f"{unknown[0]!r} is no field of the registry; name ids, a file of ids, or a preset: {', '.join(PRESETS)}"
        )
    return set(map(int, words))


def _read(path: Path, key: str, headers: Sequence[str]) -> pd.DataFrame:
    columns = [key, *headers]
    try:
        if _is_parquet(path):
            return pd.read_parquet(path, columns=columns)
        return pd.read_csv(
            path,
            sep=_separator(path),
            usecols=columns,
            dtype={key: str},
            encoding="utf-8-sig",
            low_memory=False,
            na_values=[""],
        )[columns]
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pa.ArrowInvalid, ValueError) as error:
        raise TableError(f"cannot be read as a table ({error}); export it again as UTF-8") from error


def _participants(ids: pd.Series, key: str) -> pd.Series:
    """Ids as texts of digits. Errors tell rows, counted from 0, and never an id."""
    texts = ids.astype("string").str.strip()

    def row(bad: pd.Series) -> int:
        return int(np.argmax(bad.to_numpy(bool)))

    if (again := (texts.str.lower() == key.strip().lower()).fillna(False)).any():
        raise TableError(
            f"row {row(again)} is the header again (of {again.sum()}): files were joined; keep the first header alone"
        )
    if (bad := ~texts.str.fullmatch(r"\d+").fillna(False)).any():
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
    return texts.astype(str)


def _numbers(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    if (text := values.notna() & numbers.isna()).any():
        raise TableError(
            f"{values.name!r}: {text.sum()} entries are no numbers, the first in row {int(np.argmax(text.to_numpy()))} (a date made by a "
            "spreadsheet?); export it again"
        )
    return numbers.astype(float)


def _classes(values: pd.Series) -> pd.Series:
    """Codes as texts: 1, 1.0 and "1" are "1"; a text that is no number stays."""
    unique = values.dropna().unique()
    numbers = pd.to_numeric(pd.Series(unique, dtype=object), errors="coerce")
    texts = [f"{n:.0f}" if n == np.round(n) else str(v).strip() for v, n in zip(unique, numbers, strict=True)]
    return values.map(dict(zip(unique, texts, strict=True))).astype(object)


def _combine(readings: Sequence[pd.Series], field: Field, column: Column) -> pd.Series:
    """One value of the readings of a field: their mean, or, of classes, the first."""
    if column.kind != "continuous":
        texts = [_classes(r) for r in readings]
        answers = [t.mask(t.isin(field.missing)) for t in texts]
        return functools.reduce(lambda first, second: first.fillna(second), answers)
    numbers = [_numbers(r) for r in readings]
    codes = [float(code) for code in field.missing]
    numbers = [n.mask(n.isin(codes)) for n in numbers] if codes else numbers
    numbers = [n.replace(LESS_THAN_ONE, 0.5) for n in numbers] if field.less_than_one else numbers
    return numbers[0] if len(numbers) == 1 else pd.concat(numbers, axis=1).mean(axis=1)
