"""A cohort as it was downloaded -> the UK Biobank NIfTI layout: a folder per subject, a 4-D file per plane, and one of its labels."""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data.prepare import partials
from morphojax.data.sources import nifti, ukb_nifti
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.store.records import write_atomically

_MARK = "conversion.json"
_REPORT = "report.csv"


@dataclasses.dataclass(frozen=True)
class Converted:
    """What `convert` did, in counts. Who failed, and what was assumed of whom, is in `<output>/report.csv`."""

    written: int
    there_already: int
    failed: int
    warnings: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Job:
    source: UkbDicom
    planes: tuple[str, ...]
    output: Path

    def run(self, subject: str) -> list[tuple[str, str]]:
        """Writes the folder of a subject, whole or not at all; returns (status, message) for the report."""
        warnings: list[str] = []
        try:
            cines = self.source.cines(subject, self.planes, warnings)
            if not cines:
                raise CohortError(f"no images of {', '.join(self.planes)}")
        except (ValueError, OSError, MemoryError) as error:
            return [("failed", str(error) or repr(error))]
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
    """Writes `<output>/<subject>/{sa,la_2ch,la_4ch}.nii.gz` for every subject, `label_*.nii.gz` where contours are, and report.csv
    (subject, status, message).

    A subject whose folder is there is taken as done, so that an interrupted run continues; the report keeps what it said of them. One that
    cannot be read is reported and left out; with `strict` it raises PrepareError. Raises PrepareError too for planes that are unknown, or
    others than the output folder was begun with; CohortError for a source without subjects.
    """
    partials.check_planes(planes)
    ids, output = source.subjects(), Path(output)
    _claim(output, planes)
    todo = [i for i in ids if not (output / i).is_dir()]
    job, report = _Job(source, tuple(planes), output), _earlier(output, todo)
    with tqdm(
        total=len(ids), initial=len(ids) - len(todo), desc="convert", unit="subject", disable=not progress
    ) as bar:
        for subject, found in partials.results(job.run, todo, workers):
            bar.update()
            report += [(subject, *line) for line in found]
            if strict and any(status == "failed" for status, _ in found):
                raise partials.PrepareError(f"subject {subject}: {found[0][1]}")
    frame = pd.DataFrame(sorted(report), columns=["subject", "status", "message"])
    write_atomically(output / _REPORT, frame.to_csv(index=False).encode())
    failed = int((frame["status"] == "failed").sum())
    warnings = Counter(frame.loc[frame["status"] == "warning", "message"])
    return Converted(len(todo) - failed, len(ids) - len(todo), failed, dict(sorted(warnings.items())))


def _save_labels(
    folder: Path, plane: str, volume: nifti.Volume, meaning: anatomy.Convention, seconds: float, warnings: list[str]
) -> None:
    """The layout cannot say that a structure was not annotated: labels that lack one of the plane's are left out."""
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
    """Remembers the planes in the output folder: a subject that is there has these, and would not be given others."""
    path = output / _MARK
    wanted = json.dumps({"planes": sorted(planes)})
    if path.is_file():
        if (there := path.read_text()) != wanted:
            raise partials.PrepareError(
                f"{output} was begun with {there}, not {wanted}; choose these or another folder"
            )
        return
    if output.is_dir() and any(output.iterdir()):
        raise partials.PrepareError(f"{output} is not empty, and no conversion; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, wanted.encode())


def _earlier(output: Path, todo: Sequence[str]) -> list[tuple[str, str, str]]:
    """What an earlier run reported of the subjects that are done."""
    path = output / _REPORT
    if not path.is_file():
        return []
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return list(frame[~frame["subject"].isin(list(todo))].itertuples(index=False, name=None))
