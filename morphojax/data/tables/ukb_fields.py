"""The fields of UK Biobank that can become a table column, by field id.

`ukb_fields.csv` is the registry: facts of the public data dictionary (Showcase). Fields are found
by id, because titles repeat. Dates, files and lists (diagnoses, several answers at once) are left
out. A column is named after title and id, as `lv_ejection_fraction_24103`.
"""

import csv
import dataclasses
import functools
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from morphojax.data.tables.dictionary import read_described
from morphojax.data.tables.schema import Column, TableError

PRESETS = ("published_118", "cardiac_morphometric")


@dataclasses.dataclass(frozen=True)
class Field:
    """A field that can be read.

    missing:         codes that mean "no answer".
    less_than_one:   whether the code -10 means a count of less than one.
    once:            whether the field was asked at a single visit, which exports number 0.
    published:       whether the table of Hager et al. 2023 (arXiv:2303.14080) has the field.
    same_title:      ids of unreadable fields that have the same title.
    from_dictionary: whether only the user's dictionary describes the field, not the registry.
    """

    id: int
    title: str
    column: Column
    missing: tuple[str, ...] = ()
    less_than_one: bool = False
    once: bool = False
    published: bool = False
    same_title: tuple[int, ...] = ()
    from_dictionary: bool = False

    @property
    def holds_texts(self) -> bool:
        """Whether the cells are texts of the user's dictionary, not numbers or codes."""
        codes = (re.fullmatch(r"-?[0-9]+", text) for text in self.column.classes)
        return self.column.kind != "continuous" and (self.from_dictionary or not all(codes))

    @property
    def missing_numbers(self) -> list[float]:
        """`missing` of a continuous field as numbers. Raises TableError for other text."""
        if self.column.kind != "continuous":
            return []
        try:
            return [float(code) for code in self.missing]
        except ValueError:
            raise TableError(
                f"column {self.column.name!r}: the missing codes {';'.join(self.missing)!r} are not numbers"
            ) from None


@functools.cache
def registry() -> Mapping[int, Field]:
    """The fields of `ukb_fields.csv`, by id."""
    fields = {}
    with resources.files("morphojax.data.tables").joinpath("ukb_fields.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            column = Column(
                **{key: row[key] for key in ("name", "kind", "group", "unit", "measures")},
                categories=_words(row["categories"]),
                leak=_words(row["leak"]),
                description=f"{row['title']} ({row['field']})",
            )
            flags = {key: row[key] == "yes" for key in ("less_than_one", "once", "published")}
            same_title = tuple(map(int, _words(row["same_title"])))
            field = Field(
                int(row["field"]), row["title"], column, _words(row["missing"]), same_title=same_title, **flags
            )
            fields[field.id] = field
    return fields


def described(dictionary: Path | None) -> tuple[Mapping[int, Field], list[Field]]:
    """The registry as a dictionary changes it, and the fields that it describes by header only.

    A row of the dictionary describes the field whose id is under `field`; else the registry's field
    of that column name; else the column of the file with that name as header. `missing` lists the
    codes that mean "no answer", separated by semicolons; the registry's codes apply where it is
    empty. Raises TableError for a field id or a code that is not a number.
    """
    fields, by_header = dict(registry()), []
    by_name = {field.column.name: field for field in fields.values()}
    for column, cells in read_described(dictionary, ("field", "missing")) if dictionary else ():
        id_text = cells["field"]
        if id_text and not re.fullmatch(r"[0-9]{1,9}", id_text):
            raise TableError(f"column {column.name!r}: field {id_text!r} is not a field id, such as 24103")
        known = fields.get(int(id_text)) if id_text else by_name.get(column.name)
        if known is not None:
            fields[known.id] = dataclasses.replace(
                known,
                column=column,
                missing=_words(cells["missing"]) or known.missing,
                less_than_one=known.less_than_one and column.kind == "continuous",
            )
            continue
        title = column.description or column.name
        field = Field(int(id_text or 0), title, column, _words(cells["missing"]), from_dictionary=True)
        _ = field.missing_numbers  # refuse bad codes before the table is read
        if id_text:
            fields[field.id] = field
        else:
            by_header.append(field)
    return fields, by_header


def select_fields(choice: str, fields: Mapping[int, Field]) -> tuple[set[int], set[int]]:
    """The ids that `choice` selects from `fields`, and those among them that the file must contain.

    choice: as `UkbTableSpec.fields`. Raises TableError for an unknown word, and where nothing is
        selected.
    """
    if not choice:
        return set(fields), {i for i, field in fields.items() if field.from_dictionary}
    preset_ids, named_ids = set[int](), set[int]()
    for word in filter(None, re.split(r"[\s,]+", _file_content(choice))):
        if word == "published_118":
            preset_ids |= {i for i, field in fields.items() if field.published}
        elif word == "cardiac_morphometric":
            preset_ids |= {i for i, field in fields.items() if field.column.group == word}
        elif re.fullmatch(r"[0-9]{1,9}", word) and int(word) in fields:
            named_ids.add(int(word))
        else:
            raise TableError(
                f"{word!r} is not a field of the registry; give ids, a file of ids, or a preset: {', '.join(PRESETS)}"
            )
    if not preset_ids | named_ids:
        raise TableError(f"{choice!r} selects no field; give ids, a file of ids, or a preset: {', '.join(PRESETS)}")
    return preset_ids | named_ids, named_ids


def _file_content(choice: str) -> str:
    """The text of the file that `choice` names; `choice` itself where there is no such file."""
    try:
        return Path(choice).read_text(encoding="utf-8-sig") if Path(choice).is_file() else choice
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{choice}: cannot be read as a list of fields ({error})") from error


def _words(cell: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in cell.split(";") if w.strip())
