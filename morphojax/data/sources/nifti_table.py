"""A hospital's own data: any folder of NIfTI files with a `mapping.csv`, a row per image file.

    subject,plane,phase,image,label,labels,ed_frame,es_frame
    p01,sax,ED,p01/sax_ed.nii.gz,p01/sax_ed_mask.nii.gz,lv_cavity:1;lv_myocardium:2;rv_cavity:3,,
    p01,la_4ch,cine,p01/4ch.nii.gz,,,0,11

- `subject`, `plane`, `phase` and `image` are required columns, the others are optional.
- `phase` is ED, ES or mid for a 3-D image, and cine or empty for a 4-D one.
- `ed_frame` and `es_frame` give the frames of ED and ES in a cine, counting from 0. A phase with a
  row of its own needs none.
- `labels` gives the meaning of the numbers in a label file. Structures that it does not name count
  as not annotated.
- Paths are relative to the folder of `mapping.csv`.
- `table.csv` and `dictionary.csv` are as in the UK Biobank layout (`ukb_nifti`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from morphojax import anatomy
from morphojax.data.sources import table_files, views
from morphojax.data.sources.base import CohortError, Subject, View

MAPPING = "mapping.csv"
_REQUIRED = ("subject", "plane", "phase", "image")
_OPTIONAL = ("label", "labels", "ed_frame", "es_frame")


@dataclasses.dataclass(frozen=True)
class _Row:
    """A checked row of the mapping; `line` is its line in the file."""

    line: int
    subject: str
    plane: str
    phase: str  # one of anatomy.PHASES, or anatomy.CINE
    image: str
    label: str
    convention: anatomy.Convention | None
    numbers: tuple[tuple[str, int], ...]  # (phase, frame) of ED and ES in a cine


class NiftiTable(table_files.UkbTableSource):
    """Source for a folder with a `mapping.csv`, which is checked before any image is read."""

    name = "nifti_table"

    def subjects(self) -> Sequence[str]:
        return sorted({row.subject for row in self._rows()})

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        rows = [row for row in self._rows() if row.subject == subject]
        if not rows:
            raise CohortError(f"{self._mapping}: no row of subject {subject}")
        subject_views, warnings = {}, []
        for plane in planes:
            plane_rows = [row for row in rows if row.plane == plane]
            if plane_rows:
                subject_views[plane] = self._view(plane, plane_rows, warnings)
            else:
                warnings.append(f"{plane}: no images")
        return Subject(subject, subject_views, tuple(warnings))

    @property
    def _mapping(self) -> Path:
        return self.root / MAPPING

    def _rows(self) -> tuple[_Row, ...]:
        try:
            return _read_mapping(self._mapping, self._mapping.stat().st_mtime_ns)
        except OSError as error:
            raise CohortError(
                f"{self._mapping}: cannot be read ({error.strerror}); write it, with the columns {', '.join(_REQUIRED)}"
            ) from error

    def _view(self, plane: str, rows: Sequence[_Row], warnings: list[str]) -> View:
        conventions = {row.convention.name: row.convention for row in rows if row.convention is not None}
        if len(conventions) > 1:
            lines = ", ".join(str(row.line) for row in rows if row.convention is not None)
            raise CohortError(
                f"{self._mapping}, lines {lines}: the same plane of a subject with different labels ({' and '.join(conventions)}); "
                "use one meaning of the numbers"
            )
        phases, cine, numbers = {}, None, {}
        for row in rows:
            image, label = self._path(row, "image", row.image), self._path(row, "label", row.label)
            if image is None:
                raise CohortError(f"{self._mapping}, line {row.line}: no image; fill it or remove the row")
            images = views.read(plane, image, label, 4 if row.phase == anatomy.CINE else 3, warnings)
            if row.phase == anatomy.CINE:
                cine, numbers = images, dict(row.numbers)
            else:
                phases[row.phase] = images
        convention = next(iter(conventions.values()), None)
        files = views.ViewFiles(plane, convention, phases, cine, numbers, self._mapping)
        return views.build(files, self.frames, warnings)

    def _path(self, row: _Row, column: str, text: str) -> Path | None:
        if not text:
            return None
        path = self.root / text
        try:
            exists = path.is_file()
            inside = path.resolve().is_relative_to(self.root.resolve())
        except OSError:  # a name too long for the file system
            exists = inside = False
        if not exists:
            raise CohortError(
                f"{self._mapping}, line {row.line}: {column} {text}: no such file in {self.root}; correct the path"
            )
        if not inside:
            raise CohortError(
                f"{self._mapping}, line {row.line}: {column} {text}: a link that leads out of {self.root}; "
                "copy the file, or put mapping.csv into the folder that holds it"
            )
        return path


@functools.lru_cache(maxsize=2)
def _read_mapping(path: Path, changed_ns: int) -> tuple[_Row, ...]:
    """The checked rows. Raises CohortError naming the line.

    changed_ns: the file's time of change, part of the cache key, so that a changed file is read
        again.
    """
    del changed_ns
    header, lines = table_files.read_rows(path, _REQUIRED)
    unknown = [name for name in header if name not in (*_REQUIRED, *_OPTIONAL)]
    if unknown:
        raise CohortError(
            f"{path}: unknown column {unknown[0]!r}; the columns are {', '.join(_REQUIRED)} and, if needed, {', '.join(_OPTIONAL)}"
        )
    if not lines:
        raise CohortError(f"{path}: no rows; write one per image file")
    seen: dict[tuple[str, ...], int] = {}
    rows = []
    for line, cells in lines:
        try:
            row = _row(line, {name: cells.get(name, "") for name in (*_REQUIRED, *_OPTIONAL)})
            for key, meaning in (
                ((row.subject, row.plane, row.phase), "this subject, plane and phase"),
                ((row.image,), "this image"),
                ((row.label or f"line {line}", ""), "this label"),
            ):
                if key in seen:
                    raise CohortError(f"{meaning} already appears in line {seen[key]}; remove one")
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
        raise CohortError(f"phase {cells['phase']!r} is not one of ED, ES, mid, or cine (or empty) for a 4-D file")
    if cells["plane"] not in anatomy.PLANES:
        raise CohortError(f"plane {cells['plane']!r} is not one of {', '.join(anatomy.PLANES)}")
    if bool(cells["label"]) != bool(cells["labels"]):
        raise CohortError(
            "fill both label and labels, or neither: the file, and the meaning of its numbers, such as "
            "lv_cavity:1;lv_myocardium:2;rv_cavity:3"
        )
    numbers = []
    for key in ("ed_frame", "es_frame"):
        if not cells[key]:
            continue
        number = table_files.frame_number(cells[key])
        if number is None or phase != anatomy.CINE:
            raise CohortError(
                f"{key} is {cells[key]!r}; must be a frame number, counting from 0, of a 4-D file (phase cine)"
            )
        numbers.append((key[:2].upper(), number))
    image, label = (_relative_path(cells[key]) for key in ("image", "label"))
    convention = _convention(cells["labels"]) if cells["labels"] else None
    return _Row(line, cells["subject"], cells["plane"], phase, image, label, convention, tuple(numbers))


def _relative_path(text: str) -> str:
    """The path in a normal form. Raises CohortError for a path that leads out of the folder."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text or ":" in text[:2]:
        raise CohortError(
            f"{text!r}: must be a path relative to the folder of {MAPPING}, with '/' between folders and no '..'"
        )
    return str(path) if text else ""


def _convention(text: str) -> anatomy.Convention:
    """The convention of a text such as "lv_cavity:1;rv_cavity:3". Its name ignores their order."""
    structures: dict[int, str] = {}
    for part in (p.strip() for p in text.split(";")):
        if not part:
            continue
        name, _, number = (w.strip() for w in part.partition(":"))
        if name not in anatomy.STRUCTURES:
            raise CohortError(f"labels: {name!r} is not one of {', '.join(anatomy.STRUCTURES)}")
        value = table_files.frame_number(number)
        if not value:
            raise CohortError(f"labels: {name} has the number {number!r}; must be a whole number above 0")
        if value in structures or name in structures.values():
            raise CohortError(f"labels: {name} or the number {value} appears twice in {text!r}; keep one")
        structures[value] = name
    if not structures:
        raise CohortError(f"labels: {text!r} names no structure; write such as lv_cavity:1")
    ordered = dict(sorted(structures.items()))
    return anatomy.Convention(";".join(f"{name}:{value}" for value, name in ordered.items()), ordered)
