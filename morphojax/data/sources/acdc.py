"""ACDC: patientXXX/{Info.cfg, patientXXX_4d.nii.gz, patientXXX_frameNN.nii.gz, patientXXX_frameNN_gt.nii.gz}.

Bernard et al., IEEE TMI 2018, doi 10.1109/TMI.2018.2837502.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from morphojax import anatomy
from morphojax.data.sources import nifti, table_files
from morphojax.data.sources.base import CohortError, Folder, Frame, Subject, View
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
# The values were measured on the expert masks: each leaks the label of a segmentation of that same subject.
SCHEMA = Schema(
    (
        *(Column(n, "continuous", "cardiac_morphometric", u, (), ("segmentation",), d, m) for n, u, d, m in _VALUES),
        Column("group", "categorical", "medical_history", "", ("DCM", "HCM", "MINF", "NOR", "RV"), (), "diagnosis"),
    )
)


class Acdc(Folder):
    """Source for ACDC. `root` holds `training/` (and `testing/`), or the patients themselves."""

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
        cine = nifti.load(cine_path, 4) if cine_path else None
        frames = []
        for phase, number in numbers.items():
            if cine is not None and number > cine.frames:
                raise CohortError(f"{folder / 'Info.cfg'}: {phase} is frame {number} of a cine of {cine.frames}")
            path = nifti.find(folder, f"{subject}_frame{number:02d}")
            label_path = nifti.find(folder, f"{subject}_frame{number:02d}_gt")
            image = nifti.load(path, 3) if path else cine
            if image is None:
                raise CohortError(
                    f"{folder}: {phase} is frame {number} in Info.cfg, but {subject}_frame{number:02d}.nii.gz is absent"
                )
            at = 0 if path else number - 1
            label = nifti.canonical_label(nifti.load(label_path, 3), _CONVENTION, image) if label_path else None
            frames.append(Frame(phase, image.values(at), label, image.affine, "metadata"))
        if cine is not None and abs(numbers["ES"] - numbers["ED"]) > 1:
            middle = (numbers["ED"] + numbers["ES"]) // 2
            frames.insert(1, Frame("mid", cine.values(middle - 1), None, cine.affine, "halfway"))
        if cine is None:
            warnings = () if self.frames == "phases" else ("sax: no cine",)
            return Subject(subject, {"sax": View("sax", tuple(frames), _CONVENTION.labelled)}, warnings)
        others = nifti.Cine(cine, self.frames, lambda _: None)
        return Subject(subject, {"sax": View("sax", tuple(frames), _CONVENTION.labelled, others)})

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        path = table_files.choose(
            self.table_path, self.root / "morphometrics.csv", self.root.resolve().parent / "morphometrics.csv"
        )
        dictionary = table_files.choose(self.dictionary_path)
        return table_files.read_table(path, "patient", dictionary or SCHEMA) if path else None

    def _parts(self) -> list[Path]:
        return [p for p in (self.root / "training", self.root / "testing") if p.is_dir()] or [self.root]

    def _folders(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for part in self._parts():
            for name, folder in table_files.folders(part, ("Info.cfg", "*_frame*.nii*")).items():
                if name in found:
                    raise CohortError(f"{folder} and {found[name]}: one subject found twice; remove one")
                found[name] = folder
        return found


def read_info(path: Path) -> dict[str, str]:
    """`Key: value` lines. Any key may be absent; a line that is not of that form raises CohortError."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"{path}: cannot be read ({error}); it says which frames are ED and ES") from error
    info = {}
    for line in lines:
        key, separator, value = line.partition(":")
        if not separator:
            raise CohortError(f"{path}: {line!r} is not of the form 'Key: value'")
        info[key.strip()] = value.strip()
    return info


def _frame_number(folder: Path, info: dict[str, str], phase: str) -> int:
    """The frame (1-based) of a phase. Raises CohortError where it is absent, or no frame of the cine."""
    path, text = folder / "Info.cfg", info.get(phase)
    if text is None:
        raise CohortError(f"{path}: no {phase}; add the line '{phase}: <frame, counting from 1>'")
    number, last = table_files.frame_number(text), table_files.frame_number(info.get("NbFrame", ""))
    if not number:
        raise CohortError(f"{path}: {phase} is {text!r}; must be a frame number, counting from 1")
    if last is not None and number > last:
        raise CohortError(f"{path}: {phase} is frame {number} of {last}")
    return number
