"""M&Ms (Campello et al., IEEE TMI 2021, doi 10.1109/TMI.2021.3090082).

<root>/{Training/{Labeled,Unlabeled},Validation,Testing}/CODE/CODE_sa.nii.gz      4-D cine
<root>/{Training/{Labeled,Unlabeled},Validation,Testing}/CODE/CODE_sa_gt.nii.gz   4-D labels
<root>/*M&Ms*information*.csv                                                     a row per subject

The CSV, whose name and first column vary between releases, gives the frames of ED and ES, counting
from 0. Only these two frames are labelled. Files named `_gt` under `Unlabeled` contain no labels
and are not read.
"""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files, views
from morphojax.data.sources.base import CohortError, FolderSource, Subject
from morphojax.data.tables.schema import Column, Schema

_CONVENTION = anatomy.CONVENTIONS["mnms"]
_KEY = "external code"
_IMAGES = "*_sa*.nii*"
_DEPTHS = ("", "*/", "*/*/")  # where the subjects' folders can be; `**` would not follow links
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


class Mnms(FolderSource):
    """Source for M&Ms. `root` contains the CSV and the folders of the splits, or is one of them.

    In the second case the CSV may be one or two folders up.
    """

    name = "mnms"

    def subjects(self) -> Sequence[str]:
        return sorted(self._folders())

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        patterns = (depth + glob.escape(subject) for depth in _DEPTHS)
        folder = next((p for pattern in patterns for p in self.root.glob(pattern) if any(p.glob(_IMAGES))), None)
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
            if other_frames := sorted(drawn - set(numbers.values())):
                raise CohortError(
                    f"{cine.label.path}: labels at frame {other_frames[0]}, counting from 0, while {table.name} gives "
                    f"ED {numbers['ED']} and ES {numbers['ES']}; correct whichever is wrong"
                )
            warnings += [
                f"sax: nothing drawn at {p}, taken as not labelled" for p, n in numbers.items() if n not in drawn
            ]
        files = views.ViewFiles("sax", _CONVENTION, {}, cine, numbers, table)
        return Subject(subject, {"sax": views.build(files, self.frames, warnings)}, tuple(warnings))

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        path, header, rows = self._information()
        if self.table_path is not None:
            return table_files.beside(self)
        return table_files.tabulate(path, header, rows, _COLUMNS)

    def splits(self) -> Mapping[str, str]:
        """The official split, by folder. Raises CohortError for a subject outside these folders."""
        splits = {}
        for name, folder in self._folders().items():
            part = folder.relative_to(self.root).parts[0]
            if part not in _SPLITS:
                raise CohortError(
                    f"{self.root}: {folder.relative_to(self.root)} is not in one of the folders {', '.join(_SPLITS)}, which define the "
                    "official split; restore these folders or choose another split"
                )
            splits[name] = _SPLITS[part]
        return splits

    def _phases(self, subject: str) -> tuple[Path, dict[str, int]]:
        """The CSV, and the frames (counting from 0) of ED and ES that it gives."""
        path, _, rows = self._information()
        if subject not in rows:
            raise CohortError(f"{path}: no row of subject {subject}; add one with the frames of ED and ES")
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
            paths = information_files(folder)
            if len(paths) > 1:
                raise CohortError(f"{paths[0]} and {paths[1].name}: both give the frames of ED and ES; remove one")
            if paths:
                header, rows = table_files.read_rows(paths[0], (_KEY, "ed", "es"))
                return paths[0], header, table_files.keyed(paths[0], rows, _KEY)
        raise CohortError(
            f"{self.root}: no CSV named *M&Ms*information*.csv, which gives the frames of ED and ES; add it"
        )

    def _folders(self) -> dict[str, Path]:
        """Subject -> folder, also in folders of other names than the splits'."""
        folders: dict[str, Path] = {}
        for path in sorted(p for depth in _DEPTHS for p in self.root.glob(f"{depth}*/{_IMAGES}")):
            folder = path.parent
            if path.name.startswith("."):  # a leftover of an archiver
                continue
            if folders.setdefault(folder.name, folder) != folder:
                raise CohortError(f"{folder} and {folders[folder.name]}: the same subject found twice; remove one")
        if not folders:
            raise CohortError(f"{self.root}: no subfolder holds *_sa.nii*; is this the folder of M&Ms?")
        return folders


def information_files(folder: Path) -> list[Path]:
    """The CSV files of a folder that are named like the one of M&Ms."""
    return [p for p in sorted(folder.glob("*.csv")) if "m&ms" in p.name.lower() and "information" in p.name.lower()]


def _is_unlabelled(folder: Path) -> bool:
    return folder.resolve().parent.name.lower().startswith("unlabel")
