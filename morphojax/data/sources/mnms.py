"""M&Ms: {Training/{Labeled,Unlabeled},Validation,Testing}/CODE/{CODE_sa.nii.gz, CODE_sa_gt.nii.gz}, both 4-D, and a CSV of subjects.

Campello et al., IEEE TMI 2021, doi 10.1109/TMI.2021.3090082. The CSV, whose name and first column vary, says which frames (counting from
0) are ED and ES; labels are drawn in these alone. What is named `_gt` under `Unlabeled` is no label and is not read.
"""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files, views
from morphojax.data.sources.base import CohortError, Folder, Subject
from morphojax.data.tables.schema import Column, Schema

_CONVENTION = anatomy.CONVENTIONS["mnms"]
_KEY = "external code"
_IMAGES = "*_sa*.nii*"
_DEPTHS = ("", "*/", "*/*/")  # of the subjects' folders; `**` would not follow links
_SPLITS = {"Training": "train", "Validation": "val", "Testing": "test"}
_COLUMNS = {
    "age": Column("age_years", "continuous", "demographic", "years", (), (), "age"),
    "sex": Column("sex", "categorical", "demographic", "", (), (), "sex"),
    "height": Column("height_cm", "continuous", "body_morphometric", "cm", (), (), "height"),
    "weight": Column("weight_kg", "continuous", "body_morphometric", "kg", (), (), "weight"),
    "pathology": Column("pathology", "categorical", "medical_history", "", (), ("diagnosis",), "diagnosis"),
    "vendor": Column("vendor", "categorical", "acquisition", "", (), (), "vendor of the scanner"),
    "centre": Column("centre", "categorical", "acquisition", "", (), (), "hospital"),
}


class Mnms(Folder):
    """Source for M&Ms. `root` holds the CSV and the folders of the splits, or is one of these or of the subjects themselves (the CSV may
    then be one or two folders up)."""

    name = "mnms"

    def subjects(self) -> Sequence[str]:
        return sorted(self._folders())

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        places = (depth + glob.escape(subject) for depth in _DEPTHS)
        folder = next((p for place in places for p in self.root.glob(place) if any(p.glob(_IMAGES))), None)
        if folder is None:
            raise CohortError(f"{self.root}: no folder of subject {subject}")
        warnings = [f"{plane}: no images" for plane in planes if plane != "sax"]
        if "sax" not in planes:
            return Subject(subject, {}, tuple(warnings))
        table, numbers = self._phases(subject)
        image, label = nifti.find(folder, f"{subject}_sa"), nifti.find(folder, f"{subject}_sa_gt")
        if image is None:
            raise CohortError(f"{folder}: {subject}_sa.nii.gz is absent; add it or leave the subject out")
        cine = views.read("sax", image, None if _is_unlabelled(folder) else label, 4, warnings)
        if cine.label is not None:
            drawn = {t for t in range(cine.label.frames) if cine.label.drawn(t)}
            if strays := sorted(drawn - set(numbers.values())):
                raise CohortError(
                    f"{cine.label.path}: labels at frame {strays[0]}, counting from 0, while ED is {numbers['ED']} and ES {numbers['ES']} "
                    f"in {table.name}; correct whichever is wrong"
                )
            warnings += [
                f"sax: nothing drawn at {p}, taken as not labelled" for p, n in numbers.items() if n not in drawn
            ]
        view = views.build("sax", _CONVENTION, {}, cine, numbers, self.frames, warnings, table)
        return Subject(subject, {"sax": view}, tuple(warnings))

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        path, header, rows = self._information()
        if self.table_path is not None:
            return table_files.beside(self)
        return table_files.tabulate(path, header, rows, _COLUMNS)

    def splits(self) -> Mapping[str, str]:
        """By the folder. Raises CohortError where the subjects do not lie in the folders of the splits."""
        found = {}
        for name, folder in self._folders().items():
            part = folder.relative_to(self.root).parts[0]
            if part not in _SPLITS:
                raise CohortError(f"{self.root}: holds no folders {', '.join(_SPLITS)}, which are the official split")
            found[name] = _SPLITS[part]
        return found

    def _phases(self, subject: str) -> tuple[Path, dict[str, int]]:
        """The CSV, and the frames (from 0) of ED and ES in it."""
        path, _, rows = self._information()
        if subject not in rows:
            raise CohortError(f"{path}: no row of subject {subject}; it says which frames are ED and ES")
        numbers = {}
        for phase in ("ED", "ES"):
            text = rows[subject][phase.lower()]
            number = table_files.frame_number(text)
            if number is None:
                raise CohortError(
                    f"{path}: {phase} of subject {subject} is {text!r}; must be a frame number, counting from 0"
                )
            numbers[phase] = number
        return path, numbers

    def _information(self) -> tuple[Path, tuple[str, ...], dict[str, Mapping[str, str]]]:
        root = self.root.resolve()
        for folder in (root, root.parent, root.parent.parent):
            found = information_files(folder)
            if len(found) > 1:
                raise CohortError(f"{found[0]} and {found[1].name}: both say which frames are ED and ES; remove one")
            if found:
                header, rows = table_files.read_rows(found[0], (_KEY, "ed", "es"))
                return found[0], header, table_files.keyed(found[0], rows, _KEY)
        raise CohortError(f"{self.root}: no CSV named *M&Ms*information*.csv; it says which frames are ED and ES")

    def _folders(self) -> dict[str, Path]:
        """Wherever they lie: a folder of another name than expected is no reason to skip its subjects."""
        found: dict[str, Path] = {}
        for path in sorted(p for depth in _DEPTHS for p in self.root.glob(f"{depth}*/{_IMAGES}")):
            folder = path.parent
            if path.name.startswith("."):  # what an archiver left
                continue
            if found.setdefault(folder.name, folder) != folder:
                raise CohortError(f"{folder} and {found[folder.name]}: one subject found twice; remove one")
        if not found:
            raise CohortError(f"{self.root}: no subfolder holds *_sa.nii*; is this the folder of M&Ms?")
        return found


def information_files(folder: Path) -> list[Path]:
    """The CSV files of a folder that are named as that of M&Ms is."""
    return [p for p in sorted(folder.glob("*.csv")) if "m&ms" in p.name.lower() and "information" in p.name.lower()]


def _is_unlabelled(folder: Path) -> bool:
    return folder.resolve().parent.name.lower().startswith("unlabel")
