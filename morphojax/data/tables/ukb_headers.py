"""The headers of a UK Biobank export -> which column holds which field, visit and array element."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from morphojax.data.tables.schema import TableError
from morphojax.data.tables.ukb_fields import Field, select_fields

FIRST_IMAGING_VISIT = 2
IDS = ("eid", "f.eid", "participant.eid", "n_eid", "participant id", "participant.participant id")
# Headers with field ids, as ukbconv (CSV, R, Stata) and the research platform write them.
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


@dataclasses.dataclass(frozen=True)
class UkbTableSpec:
    """What to read from a UK Biobank export.

    fields: words separated by commas, or a file of such words; "" reads every field of the registry
        that the file contains. A word is a field id, which the file must contain, or a preset,
        whose fields may be absent from the file:
        - `published_118`: the fields of the table of Hager et al. 2023 (arXiv:2303.14080);
        - `cardiac_morphometric`: every measure of the heart, including the scanner's own analysis,
          so that an ablation of this group leaves no measure behind.
    visit: the number that headers call instance; 2 is the first imaging visit. Fields that were
        asked once are always read from instance 0.
    """

    fields: str = ""
    visit: int = FIRST_IMAGING_VISIT


@dataclasses.dataclass(frozen=True)
class HeaderMatch:
    """A field that a header may stand for. visit: None where the header names no instance."""

    field: int
    visit: int | None
    array: int


def id_column(header: Sequence[str]) -> str | None:
    """The column of participant ids; None where there is none. Raises TableError for two."""
    matches = [h for h in header if h.strip().lower() in IDS]
    if len(matches) > 1:
        raise TableError(f"{matches[0]!r} and {matches[1]!r} are both participant ids; keep one")
    return matches[0] if matches else None


def match_headers(
    header: Sequence[str], fields: Mapping[int, Field], skipped: set[str]
) -> dict[str, list[HeaderMatch]]:
    """Header -> the fields that it may stand for: several where they have the same title.

    skipped: headers that the user's dictionary describes, so that they are matched to no field.
    """
    ids_by_title: dict[str, list[int]] = {}
    for field in fields.values():
        for i in (field.id, *field.same_title):
            ids_by_title.setdefault(field.title.lower(), []).append(i)
    matches: dict[str, list[HeaderMatch]] = {}
    for text in header:
        match = next((m for pattern in _BY_ID if (m := pattern.fullmatch(text.strip()))), None)
        if match:
            ids = [int(match["field"])]
        else:
            match = _BY_TITLE.fullmatch(text.strip())
            ids = ids_by_title.get(match["title"].lower(), []) if match else []
        if match is None or text in skipped or not any(i in fields for i in ids):
            continue
        visit = int(match["instance"]) if match["instance"] else None
        matches[text] = [HeaderMatch(i, visit, int(match["array"] or 0)) for i in ids]
    return matches


def choose_headers(
    matches: Mapping[str, Sequence[HeaderMatch]], fields: Mapping[int, Field], spec: UkbTableSpec
) -> dict[int, list[str]]:
    """Field id -> its headers at the visit, in the order of the registry and of the array.

    Raises TableError for a title of several fields, two headers of one field, and an absent field
    that `spec.fields` names.
    """
    selected, required = select_fields(spec.fields, fields)
    by_field: dict[int, dict[int, str]] = {}  # field id -> array element -> header
    for text, candidates in matches.items():
        chosen = [m for m in candidates if m.field in selected]
        if not chosen or all(m.visit not in (None, 0 if fields[m.field].once else spec.visit) for m in chosen):
            continue
        if len(candidates) > 1:
            raise TableError(
                f"{text!r} is the title of several fields ({', '.join(str(m.field) for m in candidates)}); "
                "export it with ids as headers, or describe it in a dictionary"
            )
        match = chosen[0]
        headers = by_field.setdefault(match.field, {})
        if match.array in headers:
            raise TableError(f"{headers[match.array]!r} and {text!r} are the same field; keep one")
        headers[match.array] = text
    if absent := sorted(required - set(by_field)):
        raise TableError(
            f"field {absent[0]} is absent at instance {spec.visit} ({len(absent)} of {len(required)} named fields are absent); "
            "export it, or leave it out of the choice"
        )
    return {i: [text for _, text in sorted(by_field[i].items())] for i in fields if i in by_field}
