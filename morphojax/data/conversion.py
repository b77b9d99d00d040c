"""A cohort as it was downloaded -> the UK Biobank NIfTI layout: a folder per subject, a 4-D file per plane."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from morphojax.data import partials
from morphojax.data.records import write_atomically
from morphojax.data.sources import nifti, ukb_nifti
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_dicom import UkbDicom


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
    """Writes `<output>/<subject>/{sa,la_2ch,la_4ch}.nii.gz` for every subject, and report.csv (subject, status, message).

    A subject whose folder is there is taken as done, so that an interrupted run continues. One that cannot be read is reported and left
    out; with `strict` it raises PrepareError. Raises CohortError for a source without subjects.
    """
    ids, output = source.subjects(), Path(output)
    todo = [i for i in ids if not (output / i).is_dir()]
    job, report = _Job(source, tuple(planes), output), []
    output.mkdir(parents=True, exist_ok=True)
    with tqdm(
        total=len(ids), initial=len(ids) - len(todo), desc="convert", unit="subject", disable=not progress
    ) as bar:
        for subject, found in partials.results(job.run, todo, workers):
            bar.update()
            report += [(subject, *line) for line in found]
            if strict and any(status == "failed" for status, _ in found):
                raise partials.PrepareError(f"subject {subject}: {found[0][1]}")
    frame = pd.DataFrame(sorted(report), columns=["subject", "status", "message"])
    write_atomically(output / "report.csv", frame.to_csv(index=False).encode())
    failed = int((frame["status"] == "failed").sum())
    warnings = Counter(frame.loc[frame["status"] == "warning", "message"])
    return Converted(len(todo) - failed, len(ids) - len(todo), failed, dict(sorted(warnings.items())))
