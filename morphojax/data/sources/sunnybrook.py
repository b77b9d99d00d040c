"""Sunnybrook Cardiac Data (Radau et al., The MIDAS Journal 2009), converted to NIfTI.

<root>/<subject>/{sa,label_sa}_{ED,ES}.nii.gz     labels of the LV cavity only
<root>/participants.csv                           the table

The ES stack may have fewer slices than the ED stack.
"""

from collections.abc import Sequence

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files, views
from morphojax.data.sources.base import CohortError, FolderSource, Subject, View
from morphojax.data.tables.schema import Column, Schema

_CONVENTION = anatomy.CONVENTIONS["sunnybrook"]
_VALUES = (
    ("lv_edv_ml", "mL", "LV end-diastolic volume", "lv_cavity:ED:ml"),
    ("lv_esv_ml", "mL", "LV end-systolic volume", "lv_cavity:ES:ml"),
    ("lv_ef_percent", "%", "LV ejection fraction", "lv_cavity:EF:%"),
)
# Measured on the expert masks: each volume leaks the segmentation label of its own subject.
SCHEMA = Schema(
    (
        Column("sex", "binary", "demographic", "", ("Female", "Male"), (), "sex"),
        Column("age_years", "continuous", "demographic", "years", (), (), "age"),
        Column("pathology", "categorical", "medical_history", "", (), (), "diagnosis"),
        *(Column(n, "continuous", "cardiac_morphometric", u, (), ("segmentation",), d, m) for n, u, d, m in _VALUES),
    )
)


class Sunnybrook(FolderSource):
    """Source for the Sunnybrook folders. ED is required; an absent ES is a warning."""

    name = "sunnybrook"

    def subjects(self) -> Sequence[str]:
        return sorted(table_files.folders(self.root, ("sa_E[DS].nii*",)))

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        folder = self.root / subject
        if not folder.is_dir():
            raise CohortError(f"{self.root}: no folder of subject {subject}")
        if "sax" not in planes:
            return Subject(subject, {})
        frames, warnings = [], [] if self.frames == "phases" else ["sax: no cine"]
        for phase in ("ED", "ES"):
            path, label_path = nifti.find(folder, f"sa_{phase}"), nifti.find(folder, f"label_sa_{phase}")
            if path is None:
                if phase == "ED" or label_path is not None:
                    raise CohortError(f"{folder}: sa_{phase}.nii.gz is absent; add it or leave the subject out")
                warnings.append("sax: no ES image")
                continue
            images = views.read("sax", path, label_path, 3, warnings)
            frames.append(images.frame(phase, 0, _CONVENTION, "file"))
        return Subject(subject, {"sax": View("sax", tuple(frames), _CONVENTION.labelled)}, tuple(warnings))

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        path = table_files.choose(self.table_path, self.root / "participants.csv")
        dictionary = table_files.choose(self.dictionary_path)
        return table_files.read_table(path, "subject", dictionary or SCHEMA) if path else None
