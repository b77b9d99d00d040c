"""What is to be prepared of a cohort, and how: what `prepare`, its shares and its dry run have in common.

The output folder of an order that is begun holds its settings, so that whoever takes it up, or works on a part of it, does the same.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.geometry import Grid
from morphojax.data.prepare.measured import Measured
from morphojax.data.prepare.partials import Job, PrepareError, check_planes
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.base import Source
from morphojax.data.store import splits as splitting
from morphojax.data.store.dataset import FORMAT_VERSION, MANIFEST
from morphojax.data.store.records import write_once
from morphojax.data.tables.schema import Schema

PERCENTILES = (0.5, 99.5)
SPLIT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
OFFICIAL = "official"  # in place of a split file: the split that the cohort's makers published
LEFT_OUT = "none"  # in a split file: a subject that is not to be part of the dataset
PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class PrepareSpec:
    """A cohort, the folder of its dataset, and what it is to be made into.

    name: of the source, for the manifest. split_file: CSV of subject, split (train, val, test, or none to leave out) that
    lists every subject with images, or "official": as the cohort's makers published it; without it, by hash of the id.
    pseudonym: names the subjects in all that is written and raised. A split by hash is that of the ids, whatever the key; a split file may
    name either.
    measured: columns for the table, from the subjects' own files.
    Raises PrepareError for planes or percentiles that cannot be.
    """

    source: Source
    output: Path
    name: str
    grid: Grid
    planes: Sequence[str] = ("sax",)
    percentiles: tuple[float, float] = PERCENTILES
    split_file: str | Path | None = None
    split_fractions: Mapping[str, float] = dataclasses.field(default_factory=lambda: SPLIT_FRACTIONS)
    split_seed: int = 0
    pseudonym: Pseudonyms | None = None
    measured: Measured | None = None

    def __post_init__(self):
        check_planes(self.planes)
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise PrepareError(f"percentiles {low}, {high}: must satisfy 0 <= low < high <= 100")

    @functools.cached_property
    def settings(self) -> str:
        """What a run that takes this up must share, as a file holds it."""
        root = str(self.source.root.resolve())
        found = {"source": self.name, "root": root, "format_version": FORMAT_VERSION} | self._job().settings()
        return json.dumps(found, indent=1, sort_keys=True)

    @functools.cached_property
    def job(self) -> Job:
        return dataclasses.replace(self._job(), stamp=hashlib.sha256(self.settings.encode()).digest())

    def _job(self) -> Job:
        planes, folder = tuple(self.planes), self.output / PARTIAL
        return Job(self.source, planes, self.grid, self.percentiles, folder, self.pseudonym, self.measured)

    def subject_splits(self) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
        """The split of every subject of the source, in the order of the ids, and what there is to report (subject, status, message) about
        the split file. Raises PrepareError."""
        ids = self.source.subjects()
        if self.split_file is None:
            return dict(
                zip(ids, splitting.assign(ids, self.split_fractions, self.split_seed).tolist(), strict=True)
            ), []
        if str(self.split_file) == OFFICIAL:
            official = self.source.splits()
            if official is None:
                raise PrepareError(
                    f"{self.source.root}: this source knows no official split; name a CSV of subject,split"
                )
            return {i: official[i] for i in ids}, []
        return _read_splits(Path(self.split_file), ids, self.job)

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        """The cohort's own table, found fit to be joined by the columns that are measured. Raises CohortError."""
        found = self.source.table()
        if found and self.measured:
            self.measured.check(found[1])
        return found

    def is_begun(self) -> bool:
        """Whether the output folder holds an unfinished run of these settings; PrepareError where it holds anything else."""
        if (self.output / MANIFEST).exists():
            raise PrepareError(f"{self.output} already holds a dataset; name another output folder or remove it")
        path = self._settings_file
        if path.is_file():
            if path.read_text() != self.settings:
                raise PrepareError(
                    f"{self.output} holds an unfinished run with other settings ({path}); remove it or repeat them"
                )
            return True
        if self.output.is_dir() and any(p.name != PARTIAL for p in self.output.iterdir()):
            raise PrepareError(f"{self.output} is not empty; name another output folder")
        return False

    def claim(self) -> None:
        """Makes the output folder ours, or takes up a run of these settings; any number of processes may do so at once. Raises
        PrepareError for a folder that holds something else, or cannot be written."""
        path = self._settings_file
        try:
            if not self.is_begun():
                path.parent.mkdir(parents=True, exist_ok=True)
                if not write_once(path, self.settings.encode()):
                    self.is_begun()  # another process was first, perhaps with other settings
        except OSError as error:
            raise unwritable(error, self.output) from error

    @property
    def _settings_file(self) -> Path:
        return self.output / PARTIAL / "settings.json"


def unwritable(error: OSError, output: Path) -> PrepareError:
    return PrepareError(f"{error.filename or output}: cannot be written ({error.strerror or error})")


def _read_splits(path: Path, ids: Sequence[str], job: Job) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    try:
        listed = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise PrepareError(f"{path}: cannot be read as a CSV of subject,split ({error})") from error
    if list(listed.columns) != ["subject", "split"]:
        raise PrepareError(f"{path}: the header is {','.join(listed.columns)}; must be subject,split")
    allowed = (*splitting.SPLITS, LEFT_OUT)
    wrong = listed["split"][~listed["split"].isin(allowed)].tolist()
    if wrong:
        raise PrepareError(f"{path}: split {wrong[0]!r} is not one of {', '.join(allowed)}")
    by_name = {job.name(i): i for i in ids}
    subjects = [by_name.get(i, i) for i in listed["subject"]]
    chosen: dict[str, str] = {}
    for line, (subject, split) in enumerate(zip(subjects, listed["split"], strict=True), start=2):
        if subject in chosen:
            raise PrepareError(f"{path}, line {line}: the subject is listed twice")
        chosen[subject] = split
    absent = [i for i in ids if i not in chosen]
    if absent:
        raise PrepareError(
            f"{path}: {len(absent)} subjects with images are not listed, e.g. {job.name(absent[0])}; list them, with the split "
            f"'{LEFT_OUT}' to leave them out"
        )
    present = set(ids)
    report = [(i, "left out", f"split {LEFT_OUT}") for i in ids if chosen[i] == LEFT_OUT]
    report += [(i, "no images", "in the split file but no images") for i in chosen if i not in present]
    return {i: chosen[i] for i in ids}, report
