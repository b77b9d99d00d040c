"""ACDC (Bernard et al., IEEE TMI 2018, doi 10.1109/TMI.2018.2837502).

<root>/{training,testing}/patientXXX/Info.cfg                     the frames of ED and ES, from 1
<root>/{training,testing}/patientXXX/patientXXX_4d.nii.gz         4-D cine; may be absent
<root>/{training,testing}/patientXXX/patientXXX_frameNN.nii.gz    ED and ES
<root>/{training,testing}/patientXXX/patientXXX_frameNN_gt.nii.gz labels
<root>/morphometrics.csv                                          the table; may be absent
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files
from morphojax.data.sources.base import CohortError, FolderSource, Frame, Subject, View
from morphojax.data.tables.schema import Column, Schema

_CONVENTION = anatomy.CONVENTIONS["acdc"]
_VALUES = (
    ("lv_edv_ml", "mL", "LV end-diastolic volume", "lv_cavity:ED:ml"),
    ("lv_esv_ml", "mL", "LV end-systolic volume", "lv_cavity:ES:ml"),
    ("lv_ef_percent", "%", "LV ejection fraction", "lv_cavity:EF:%"),
    ("rv_edv_ml", "mL", "RV end-diastolic volume", "rv_cavity:ED:ml"),
    ("rv_esv_ml", "mL", "RV end-systolic volume", "rv_cavity:ES:ml"),
    ("rv_ef_percent", "%", "RV ejection fraction", "rv_cavity:EF:%"),
    ("lv_mass_g", "g", "LV myocardial mass at end-diastole", "lv_myocardium:ED:g"),
    ("lv_max_wall_thickness_ed_mm", "mm", "largest LV wall thickness at end-diastole", ""),
    ("lv_max_wall_thickness_es_mm", "mm", "largest LV wall thickness at end-systole", ""),
)
# Measured on the expert masks: each value leaks the segmentation label of its own subject.
SCHEMA = Schema(
    (
        *(Column(n, "continuous", "cardiac_morphometric", u, (), ("segmentation",), d, m) for n, u, d, m in _VALUES),
        Column("group", "categorical", "medical_history", "", ("DCM", "HCM", "MINF", "NOR", "RV"), (), "diagnosis"),
    )
)


class Acdc(FolderSource):
    """Source for ACDC. `root` contains `training/` and `testing/`, or the patients' folders."""

    name = "acdc"

    def subjects(self) -> Sequence[str]:
        return sorted(self._folders())

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        folder = next((part / subject for part in self._parts() if (part / subject).is_dir()), None)
        if folder is None:
            raise CohortError(f"{self.root}: no folder of subject {subject}")
        if "sax" not in planes:
            return Subject(subject, {})
        info = read_info(folder / "Info.cfg")
        cine_path = nifti.find(folder, f"{subject}_4d")
        numbers = {phase: _frame_number(folder, info, phase) for phase in ("ED", "ES")}
        if numbers["ED"] == numbers["ES"]:
            raise CohortError(f"{folder / 'Info.cfg'}: ED and ES are both frame {numbers['ED']}; correct one")
        frames, warnings = [], []
        cine = nifti.load_noting(cine_path, 4, "sax", warnings) if cine_path else None
        for phase, number in numbers.items():
            if cine is not None and number > cine.frames:
                raise CohortError(
                    f"{folder / 'Info.cfg'}: {phase} is frame {number} of a cine of {cine.frames}; correct the number"
                )
            path = nifti.find(folder, f"{subject}_frame{number:02d}")
            label_path = nifti.find(folder, f"{subject}_frame{number:02d}_gt")
            image = nifti.load_noting(path, 3, "sax", warnings) if path else cine
            if image is None:
                raise CohortError(
                    f"{folder}: {phase} is frame {number} in Info.cfg, but {subject}_frame{number:02d}.nii.gz is absent; add it"
                )
            index = 0 if path else number - 1
            mask = nifti.load_noting(label_path, 3, "sax", warnings) if label_path else None
            label = nifti.canonical_label(mask, _CONVENTION, image) if mask else None
            frames.append(Frame(phase, image.values(index), label, image.affine, "metadata"))
        if cine is not None and abs(numbers["ES"] - numbers["ED"]) > 1:
            middle = (numbers["ED"] + numbers["ES"]) // 2
            frames.insert(1, Frame("mid", cine.values(middle - 1), None, cine.affine, "halfway"))
        if cine is None:
            warnings += [] if self.frames == "phases" else ["sax: no cine"]
            return Subject(subject, {"sax": View("sax", tuple(frames), _CONVENTION.labelled)}, tuple(warnings))
        other_frames = nifti.CineFrames(cine, self.frames, lambda _: None)
        view = View("sax", tuple(frames), _CONVENTION.labelled, other_frames)
        return Subject(subject, {"sax": view}, tuple(warnings))

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        path = table_files.choose(
            self.table_path, self.root / "morphometrics.csv", self.root.resolve().parent / "morphometrics.csv"
        )
        dictionary = table_files.choose(self.dictionary_path)
        return table_files.read_table(path, "patient", dictionary or SCHEMA) if path else None

    def _parts(self) -> list[Path]:
        return [p for p in (self.root / "training", self.root / "testing") if p.is_dir()] or [self.root]

    def _folders(self) -> dict[str, Path]:
        folders: dict[str, Path] = {}
        for part in self._parts():
            for name, folder in table_files.folders(part, ("Info.cfg", "*_frame*.nii*")).items():
                if name in folders:
                    raise CohortError(f"{folder} and {folders[name]}: the same subject found twice; remove one")
                folders[name] = folder
        return folders


def read_info(path: Path) -> dict[str, str]:
    """The `Key: value` lines of Info.cfg. Raises CohortError for a line of another form."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"{path}: cannot be read ({error}); it must give the frames of ED and ES") from error
    info = {}
    for line in lines:
        key, separator, value = line.partition(":")
        if not separator:
            raise CohortError(f"{path}: {line!r} must have the form 'Key: value'; correct the line")
        if key.strip() in info:
            raise CohortError(f"{path}: {key.strip()} appears twice; remove one")
        info[key.strip()] = value.strip()
    return info


def _frame_number(folder: Path, info: dict[str, str], phase: str) -> int:
    """The frame of a phase, from 1. Raises CohortError where it is absent or impossible."""
    path, text = folder / "Info.cfg", info.get(phase)
    if text is None:
        raise CohortError(f"{path}: no {phase}; add the line '{phase}: <frame, counting from 1>'")
    number, last = table_files.frame_number(text), table_files.frame_number(info.get("NbFrame", ""))
    if not number:
        raise CohortError(f"{path}: {phase} is {text!r}; must be a frame number, counting from 1")
    if last is not None and number > last:
        raise CohortError(f"{path}: {phase} is frame {number} of {last}; correct the number")
    return number
