"""UK Biobank's zips -> its NIfTI layout: per subject a folder, per plane a 4-D file and labels."""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.prepare.checks import PrepareError, check_planes, describe_error
from morphojax.data.prepare.contents import ReportLine, write_report
from morphojax.data.prepare.workers import map_subjects
from morphojax.data.sources import nifti, ukb_nifti
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.store.records import write_atomically
from morphojax.progress import bar as progress_bar

_SETTINGS = "conversion.json"  # in the output folder: the planes that it was begun with
_REPORT = "report.csv"


@dataclasses.dataclass(frozen=True)
class Converted:
    """What `convert` did, in counts; `<output>/report.csv` lists failures and warnings."""

    written: int
    already_done: int
    failed: int
    warnings: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Conversion:
    """What a worker process needs to convert any one subject."""

    source: UkbDicom
    planes: tuple[str, ...]
    output: Path

    def convert(self, subject: str) -> list[tuple[str, str]]:
        """Writes a subject's folder, completely or not at all; returns (status, message) lines."""
        warnings: list[str] = []
        try:
            cines = self.source.cines(subject, self.planes, warnings)
            if not cines:
                raise CohortError(f"no images of {', '.join(self.planes)}")
        except Exception as error:  # as in prepare: the failure of this subject alone
            return [("failed", describe_error(error))]
        folder = self.output / f".{subject}.partial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for plane, cine in cines.items():
            nifti.save(folder / f"{ukb_nifti.PREFIX[plane]}.nii.gz", cine.volume, cine.seconds)
            if cine.labels:
                _save_labels(folder, plane, *cine.labels, cine.seconds, warnings)
        folder.rename(self.output / subject)
        return [("warning", w) for w in warnings]


def convert(
    source: UkbDicom,
    output: str | Path,
    planes: Sequence[str],
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Converted:
    """Writes `<output>/<subject>/{sa,la_2ch,la_4ch}.nii.gz` and, from contours, `label_*.nii.gz`.

    Beside them it writes report.csv (subject, status, message). A subject with a folder counts as
    done, so an interrupted run continues, and the report keeps its lines. A subject that cannot
    be read is reported and left out; with `strict` it raises PrepareError.

    Raises PrepareError for unknown planes, and for other planes than the folder was begun with;
    CohortError for a source without subjects.
    """
    check_planes(planes)
    ids, output = source.subjects(), Path(output)
    _claim(output, planes)
    todo = [i for i in ids if not (output / i).is_dir()]
    conversion, report = _Conversion(source, tuple(planes), output), _earlier_report(output, todo)
    with progress_bar(
        total=len(ids), initial=len(ids) - len(todo), desc="convert", unit="subject", show=progress
    ) as bar:
        for subject, lines in map_subjects(conversion.convert, todo, workers):
            bar.update()
            report += [(subject, *line) for line in lines]
            if strict and any(status == "failed" for status, _ in lines):
                raise PrepareError(f"subject {subject}: {lines[0][1]}")
    write_report(output, sorted(report))
    failed = sum(status == "failed" for _, status, _ in report)
    warnings = Counter(message for _, status, message in report if status == "warning")
    return Converted(len(todo) - failed, len(ids) - len(todo), failed, dict(sorted(warnings.items())))


def _save_labels(
    folder: Path, plane: str, volume: nifti.Volume, meaning: anatomy.Convention, seconds: float, warnings: list[str]
) -> None:
    """Writes a label file, unless one of the plane's structures was not annotated.

    The layout cannot express that, and zero would mean background.
    """
    convention = anatomy.CONVENTIONS[f"ukb_{plane}"]
    if meaning.labelled != convention.labelled:
        warnings.append(f"{plane}: contours of some structures only, which this layout cannot tell: no labels written")
        return
    raw = np.zeros_like(volume.raw)
    for canonical, number in convention.from_canonical().items():
        raw[volume.raw == canonical] = number
    path = folder / f"label_{ukb_nifti.PREFIX[plane]}.nii.gz"
    nifti.save(path, dataclasses.replace(volume, raw=raw), seconds)


def _claim(output: Path, planes: Sequence[str]) -> None:
    """Begins or continues a conversion in the output folder.

    The folder records its planes, as a subject with a folder would silently lack any other.
    """
    path = output / _SETTINGS
    wanted = json.dumps({"planes": sorted(planes)})
    if path.is_file():
        if (begun_with := path.read_text()) != wanted:
            raise PrepareError(
                f"{output} was begun with {begun_with}, not {wanted}; choose the same planes or another folder"
            )
        return
    if output.is_dir() and any(output.iterdir()):
        raise PrepareError(f"{output} is not empty and holds no conversion; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, wanted.encode())


def _earlier_report(output: Path, todo: Sequence[str]) -> list[ReportLine]:
    """The lines that an earlier run reported about the subjects that are done."""
    path = output / _REPORT
    if not path.is_file():
        return []
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return list(frame[~frame["subject"].isin(list(todo))].itertuples(index=False, name=None))
