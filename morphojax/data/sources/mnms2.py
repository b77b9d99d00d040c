"""M&Ms-2 (Martin-Isla et al., IEEE JBHI 2023, doi 10.1109/JBHI.2023.3267857).

<root>/dataset_information.csv                             a row per subject
<root>/dataset/NNN/NNN_{SA,LA}_{CINE,ED,ES}.nii.gz         LA is the 4-chamber view
<root>/dataset/NNN/NNN_{SA,LA}_{ED,ES}_gt.nii.gz           labels

Official split: subjects 1 to 160 for training, 161 to 200 for validation, 201 to 360 for testing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files, views
from morphojax.data.sources.base import CohortError, FolderSource, Subject, View
from morphojax.data.tables.schema import Column, Schema

_CONVENTION = anatomy.CONVENTIONS["mnms2"]
_PREFIX = {"sax": "SA", "la_4ch": "LA"}
_KEY = "subject_code"
_COLUMNS = {
    "disease": Column("disease", "categorical", "medical_history", "", (), ("diagnosis",), "diagnosis"),
    "vendor": Column("vendor", "categorical", "acquisition", "", (), (), "vendor of the scanner"),
    "scanner": Column("scanner", "categorical", "acquisition", "", (), (), "model of the scanner"),
    "field": Column("field_tesla", "continuous", "acquisition", "T", (), (), "field strength"),
}


class Mnms2(FolderSource):
    """Source for M&Ms-2. `root` contains `dataset/` or the folders of the subjects.

    In the second case the CSV may be one folder up.
    """

    name = "mnms2"

    def subjects(self) -> Sequence[str]:
        return sorted(table_files.folders(self._dataset, ("*_[SL]A_*.nii*",)))

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        if not (self._dataset / subject).is_dir():
            raise CohortError(f"{self.root}: no folder of subject {subject}")
        subject_views, warnings = {}, []
        for plane in planes:
            view = self._view(subject, plane, warnings)
            if view is None:
                warnings.append(f"{plane}: no images")
            else:
                subject_views[plane] = view
        return Subject(subject, subject_views, tuple(warnings))

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        if self.table_path is not None:
            return table_files.beside(self)
        name = "dataset_information.csv"
        path = table_files.choose(None, self.root / name, self.root.resolve().parent / name)
        if path is None:
            return None
        header, rows = table_files.read_rows(path, (_KEY,))
        # Spreadsheets drop the leading zeros of 007.
        padded = [(line, row | {_KEY: row[_KEY] and row[_KEY].zfill(3)}) for line, row in rows]
        return table_files.tabulate(path, header, table_files.keyed(path, padded, _KEY), _COLUMNS)

    def splits(self) -> Mapping[str, str]:
        """The official split, by number. Raises CohortError for a number outside 1 to 360."""
        splits = {}
        for subject in self.subjects():
            number = int(subject) if subject.isascii() and subject.isdigit() and len(subject) < 7 else 0
            if not 1 <= number <= 360:
                raise CohortError(
                    f"{self._dataset / subject}: the official split has only the subjects 001 to 360; leave the subject out"
                )
            splits[subject] = "train" if number <= 160 else "val" if number <= 200 else "test"
        return splits

    @property
    def _dataset(self) -> Path:
        return self.root / "dataset" if (self.root / "dataset").is_dir() else self.root

    def _view(self, subject: str, plane: str, warnings: list[str]) -> View | None:
        folder, prefix = self._dataset / subject, f"{subject}_{_PREFIX.get(plane)}"
        if plane not in _PREFIX:
            return None
        phases = {}
        for phase in ("ED", "ES"):
            image, label = nifti.find(folder, f"{prefix}_{phase}"), nifti.find(folder, f"{prefix}_{phase}_gt")
            if image is not None:
                phases[phase] = views.read(plane, image, label, 3, warnings)
            elif label is not None:
                raise CohortError(f"{label}: has no image {prefix}_{phase}.nii.gz; add it or remove the label")
        path = nifti.find(folder, f"{prefix}_CINE")
        if path is None and not phases:
            return None
        cine = views.read(plane, path, None, 4, warnings) if path else None
        # The cohort gives no frame numbers, but both images are copies of frames of the cine.
        numbers = {phase: cine.image.closest(images.image) for phase, images in phases.items()} if cine else {}
        if numbers.get("ED") is not None and numbers.get("ED") == numbers.get("ES"):
            raise CohortError(f"{folder}: {prefix}_ED and {prefix}_ES are the same frame of {prefix}_CINE; correct one")
        files = views.ViewFiles(plane, _CONVENTION, phases, cine, numbers, folder)
        return views.build(files, self.frames, warnings)
