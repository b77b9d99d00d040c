"""Any folder of NIfTI files that `mapping.csv` describes, a row per image file: a hospital's own data.

    subject,plane,phase,image,label,labels,ed_frame,es_frame
    p01,sax,ED,p01/sax_ed.nii.gz,p01/sax_ed_mask.nii.gz,lv_cavity:1;lv_myocardium:2;rv_cavity:3,,
    p01,la_4ch,cine,p01/4ch.nii.gz,,,0,11

`phase` is ED, ES or mid for a 3-D image; cine, or nothing, for a 4-D one, of which `ed_frame` and `es_frame` say which frames (counting
from 0) are ED and ES, unless these have rows of their own. `labels` says what the numbers in a label file mean; a structure that is not
named there was not annotated. Paths start at the folder of `mapping.csv`. The first four columns are needed. `table.csv` and
`dictionary.csv` as in the UK Biobank layout.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import table_files, views
from morphojax.data.sources.base import CohortError, Folder, Subject, View
from morphojax.data.tables.schema import Schema

MAPPING = "mapping.csv"
_NEEDED = ("subject", "plane", "phase", "image")
_OPTIONAL = ("label", "labels", "ed_frame", "es_frame")


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    subject: str
    plane: str
    phase: str  # one of anatomy.PHASES, or anatomy.CINE
    image: str
    label: str
    convention: anatomy.Convention | None
    numbers: tuple[tuple[str, int], ...]  # of ED and ES in a cine


class NiftiTable(Folder):
    """Source for a folder with a `mapping.csv`. The whole file is checked before any image is read."""

    name = "nifti_table"
    reads_exports = True

    def subjects(self) -> Sequence[str]:
        return sorted({row.subject for row in self._rows()})

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        rows = [row for row in self._rows() if row.subject == subject]
        if not rows:
            raise CohortError(f"{self._mapping}: no row of subject {subject}")
        found, warnings = {}, []
        for plane in planes:
            here = [row for row in rows if row.plane == plane]
            if here:
                found[plane] = self._view(plane, here, warnings)
            else:
                warnings.append(f"{plane}: no images")
        return Subject(subject, found, tuple(warnings))

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        return table_files.beside(self)

    @property
    def _mapping(self) -> Path:
        return self.root / MAPPING

    def _rows(self) -> tuple[_Row, ...]:
        try:
            return _read_mapping(self._mapping, self._mapping.stat().st_mtime_ns)
        except OSError as error:
            raise CohortError(
                f"{self._mapping}: cannot be read ({error.strerror}); write it, with the columns {', '.join(_NEEDED)}"
            ) from error

    def _view(self, plane: str, rows: Sequence[_Row], warnings: list[str]) -> View:
        conventions = {row.convention.name: row.convention for row in rows if row.convention is not None}
        if len(conventions) > 1:
            lines = ", ".join(str(row.line) for row in rows if row.convention is not None)
            raise CohortError(
                f"{self._mapping}, lines {lines}: one plane of a subject with different labels ({' and '.join(conventions)})"
            )
        phases, cine, numbers = {}, None, {}
        for row in rows:
            image, label = self._path(row, "image", row.image), self._path(row, "label", row.label)
            if image is None:
                raise CohortError(f"{self._mapping}, line {row.line}: no image")
            images = views.read(plane, image, label, 4 if row.phase == anatomy.CINE else 3, warnings)
            if row.phase == anatomy.CINE:
                cine, numbers = images, dict(row.numbers)
            else:
                phases[row.phase] = images
        convention = next(iter(conventions.values()), None)
        return views.build(plane, convention, phases, cine, numbers, self.frames, warnings, self._mapping)

    def _path(self, row: _Row, column: str, text: str) -> Path | None:
        if not text:
            return None
        path = self.root / text
        try:
            there = path.is_file()
        except OSError:  # a name that no disk can hold
            there = False
        if not there:
            raise CohortError(f"{self._mapping}, line {row.line}: {column} {text}: no such file in {self.root}")
        return path


@functools.lru_cache(maxsize=2)
def _read_mapping(path: Path, changed_ns: int) -> tuple[_Row, ...]:
    """The rows, read again whenever the file has changed. Raises CohortError naming the line."""
    del changed_ns
    header, lines = table_files.read_rows(path, _NEEDED)
    unknown = [name for name in header if name not in (*_NEEDED, *_OPTIONAL)]
    if unknown:
        raise CohortError(
            f"{path}: unknown column {unknown[0]!r}; the columns are {', '.join(_NEEDED)} and, if needed, {', '.join(_OPTIONAL)}"
        )
    if not lines:
        raise CohortError(f"{path}: no rows; write one per image file")
    seen: dict[tuple[str, ...], int] = {}
    rows = []
    for line, cells in lines:
        try:
            row = _row(line, {name: cells.get(name, "") for name in (*_NEEDED, *_OPTIONAL)})
            for key, what in (
                ((row.subject, row.plane, row.phase), "this subject, plane and phase"),
                ((row.image,), "this image"),
                ((row.label or f"line {line}", ""), "this label"),
            ):
                if key in seen:
                    raise CohortError(f"{what} already has line {seen[key]}; remove one")
                seen[key] = line
        except CohortError as error:
            raise CohortError(f"{path}, line {line}: {error}") from None
        rows.append(row)
    return tuple(rows)


def _row(line: int, cells: dict[str, str]) -> _Row:
    for name in ("subject", "image"):
        if not cells[name]:
            raise CohortError(f"no {name}; fill it or remove the row")
    phases = {p.lower(): p for p in (*anatomy.PHASES, anatomy.CINE)} | {"": anatomy.CINE}
    phase = phases.get(cells["phase"].lower())
    if phase is None:
        raise CohortError(f"phase {cells['phase']!r} is not one of ED, ES, mid, or cine (or nothing) for a 4-D file")
    if cells["plane"] not in anatomy.PLANES:
        raise CohortError(f"plane {cells['plane']!r} is not one of {', '.join(anatomy.PLANES)}")
    if bool(cells["label"]) != bool(cells["labels"]):
        raise CohortError(
            "label and labels go together: the file, and what its numbers mean, such as lv_cavity:1;lv_myocardium:2;rv_cavity:3"
        )
    numbers = []
    for key in ("ed_frame", "es_frame"):
        if not cells[key]:
            continue
        number = table_files.frame_number(cells[key])
        if number is None or phase != anatomy.CINE:
            raise CohortError(f"{key} is {cells[key]!r}; a frame number, counting from 0, of a 4-D file (phase cine)")
        numbers.append((key[:2].upper(), number))
    image, label = (_inside(cells[key]) for key in ("image", "label"))
    convention = _convention(cells["labels"]) if cells["labels"] else None
    return _Row(line, cells["subject"], cells["plane"], phase, image, label, convention, tuple(numbers))


def _inside(text: str) -> str:
    """A path below the folder, in one spelling."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text or ":" in text[:2]:
        raise CohortError(f"{text!r}: paths start at the folder of {MAPPING}, have '/' between folders and no '..'")
    return str(path) if text else ""


def _convention(text: str) -> anatomy.Convention:
    """ "lv_cavity:1;rv_cavity:3" -> the convention; its name is the same for any order of the structures."""
    structures: dict[int, str] = {}
    for part in (p.strip() for p in text.split(";")):
        if not part:
            continue
        name, _, number = (w.strip() for w in part.partition(":"))
        if name not in anatomy.STRUCTURES:
            raise CohortError(f"labels: {name!r} is not one of {', '.join(anatomy.STRUCTURES)}")
        value = table_files.frame_number(number)
        if not value:
            raise CohortError(f"labels: {name} has the number {number!r}; a whole number above 0 is needed")
        if value in structures or name in structures.values():
            raise CohortError(f"labels: {name} or the number {value} is there twice in {text!r}")
        structures[value] = name
    if not structures:
        raise CohortError(f"labels: {text!r} names no structure")
    ordered = dict(sorted(structures.items()))
    return anatomy.Convention(";".join(f"{name}:{value}" for value, name in ordered.items()), ordered)
