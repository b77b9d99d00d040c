"""The schema of a cohort's table: the meaning of its columns, read from a data dictionary.

A column is continuous, binary or categorical, belongs to one group, and may leak the label of a
task. Ablations select or drop groups: "no cardiac morphometry" is
`schema.select("-cardiac_morphometric")`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from morphojax.anatomy import LONG_AXIS, PHASES, PLANE_STRUCTURES, STRUCTURES
from morphojax.data import json_text
from morphojax.data.errors import NamedError

KINDS = ("continuous", "binary", "categorical")
GROUPS = (
    "cardiac_morphometric",
    "body_morphometric",
    "haemodynamic",
    "demographic",
    "lifestyle",
    "medical_history",
    "acquisition",
)
# No measurement is larger, and squares of such numbers still have a mean.
LARGEST_NUMBER = 1e30
DICTIONARY_FIELDS = ("name", "kind", "group", "unit", "categories", "leak", "description", "measures")
# What a column can measure: the volume (ml) or mass (g) of a structure at a phase, its area (cm2)
# in a long-axis plane, or an ejection fraction.
MEASURES = (
    *(f"{structure}:{phase}:ml" for structure in STRUCTURES for phase in PHASES),
    *(f"lv_myocardium:{phase}:g" for phase in PHASES),
    *(f"{s}:{plane}:{phase}:cm2" for plane in LONG_AXIS for s in PLANE_STRUCTURES[plane] for phase in PHASES),
    *(f"{structure}:EF:%" for structure in STRUCTURES if structure != "lv_myocardium"),
)


# Of a column in JSON, as `Schema.to_json` writes it.
COLUMN_SHAPE = dict.fromkeys(DICTIONARY_FIELDS[:3], str) | {
    **{f"{field}?": str for field in ("unit", "description", "measures")},
    **{f"{field}?": [str] for field in ("categories", "leak")},
}


class TableError(NamedError):
    """A table or dictionary cannot be used. The message names the column, never the subject."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    categories: the texts of its classes, in the order of their codes. Without any, a binary column
        has the classes 0 and 1, and a categorical one learns its classes from the training rows.
    leak:       the tasks whose label this column is, or is derived from.
    measures:   what a continuous column measures, one of MEASURES such as lv_cavity:ED:ml; read by
        `cells.volumes` and `cells.areas`.
    """

    name: str
    kind: str
    group: str
    unit: str = ""
    categories: tuple[str, ...] = ()
    leak: tuple[str, ...] = ()
    description: str = ""
    measures: str = ""

    def __post_init__(self):
        reserved = self.name in ("all", *GROUPS) or self.name.startswith("-") or "," in self.name
        if not self.name or self.name != self.name.strip() or reserved:
            raise TableError(
                f"column {self.name!r}: a name must not contain a comma, start with '-', be empty, be a group or be 'all'"
            )
        if self.kind not in KINDS:
            raise TableError(f"column {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.group not in GROUPS:
            raise TableError(f"column {self.name!r}: group {self.group!r} is not one of {', '.join(GROUPS)}")
        n = len(self.categories)
        if n != len(set(self.categories)):
            raise TableError(f"column {self.name!r}: a category is listed twice in {list(self.categories)}")
        if n and (self.kind == "continuous" or n == 1 or (self.kind == "binary" and n != 2)):
            raise TableError(f"column {self.name!r}: {n} categories do not fit a {self.kind} column")
        if self.measures and self.measures not in MEASURES:
            raise TableError(f"column {self.name!r}: measures {self.measures!r} is not one of {', '.join(MEASURES)}")
        if self.measures and self.kind != "continuous":
            raise TableError(f"column {self.name!r}: a {self.kind} column cannot measure {self.measures}")
        if self.measures and self.unit and self.unit.lower() != self.measures.split(":")[-1]:
            raise TableError(f"column {self.name!r}: its unit {self.unit} does not fit its measures {self.measures}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The declared classes; () for a continuous column and for one that learns its classes."""
        return self.categories or (("0", "1") if self.kind == "binary" else ())


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order in which they are encoded."""

    columns: tuple[Column, ...]

    def __post_init__(self):
        repeated = sorted({n for n in self.names if self.names.count(n) > 1})
        if repeated:
            raise TableError(f"columns described twice: {', '.join(repeated)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of these columns, in the order of GROUPS."""
        present = {c.group for c in self.columns}
        return tuple(g for g in GROUPS if g in present)

    def select(self, spec: str) -> "Schema":
        """The columns selected by a comma-separated list of `all`, groups and column names.

        The columns keep the order of the schema. A leading '-' drops columns; a list of drops only
        starts from all columns, and a drop wins over a pick. Raises TableError for a name that is
        neither a group nor a column of this table, because the ablation would have no effect, and
        where no column is left.
        """
        picked, dropped, any_pick = set(), set(), False
        for word in (w.strip() for w in spec.split(",")):
            if not word:
                continue
            name = word.removeprefix("-").strip()
            matches = {c.name for c in self.columns if name in ("all", c.name, c.group)}
            if not matches:
                raise TableError(
                    f"{name!r} in the selection {spec!r} is neither a group nor a column of this table. "
                    f"Groups: {', '.join(self.groups)}. Columns: {', '.join(self.names)}."
                )
            if word.startswith("-"):
                dropped |= matches
            else:
                picked |= matches
                any_pick = True
        kept = tuple(c for c in self.columns if (c.name in picked or not any_pick) and c.name not in dropped)
        if not spec.strip(" ,") or not kept:
            raise TableError(f"the selection {spec!r} leaves no column. Groups: {', '.join(self.groups)}.")
        return Schema(kept)

    def without_leaks(self, task: str) -> "Schema":
        """The columns that do not leak the label of `task`."""
        return Schema(tuple(c for c in self.columns if task not in c.leak))

    def to_json(self) -> list[dict[str, Any]]:
        """JSON of the columns, without `measures` where it is empty.

        So datasets that were prepared before this field existed keep their fingerprint.
        """
        columns = [
            dataclasses.asdict(c) | {"categories": list(c.categories), "leak": list(c.leak)} for c in self.columns
        ]
        return [{k: v for k, v in c.items() if k != "measures" or v} for c in columns]

    @classmethod
    def from_json(cls, state: Sequence[Mapping[str, Any]]) -> Self:
        """The schema that `to_json` wrote. Raises TableError for anything else."""
        if found := json_text.problem(state, [COLUMN_SHAPE], "schema"):
            raise TableError(found)
        return cls(tuple(column_of(dict(c)) for c in state))


def column_of(fields: dict[str, Any]) -> Column:
    """A column from its fields by name; lists may be absent. Raises TableError as `Column` does."""
    if unknown := set(fields) - set(DICTIONARY_FIELDS):
        raise TableError(f"column {fields['name']!r}: {', '.join(sorted(unknown))!r} describes no column")
    lists: dict[str, Any] = {k: tuple(fields.get(k, ())) for k in ("categories", "leak")}
    return Column(**fields | lists)
