"""Settings of a preparation, shared by `prepare`, its shards and its dry run.

A folder that a run has begun holds these settings, so that a run which continues it, or prepares
a part of it, must have the same ones.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.geometry import Grid
from morphojax.data.prepare.checks import PrepareError, check_planes
from morphojax.data.prepare.contents import ReportLine
from morphojax.data.prepare.measured import Measured
from morphojax.data.prepare.partials import PartialResults
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.base import Source
from morphojax.data.store import splits as splitting
from morphojax.data.store.dataset import FORMAT_VERSION, MANIFEST
from morphojax.data.store.records import write_once
from morphojax.data.tables.delimited import read_lines
from morphojax.data.tables.schema import Schema, TableError

PERCENTILES = (0.5, 99.5)
SPLIT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
OFFICIAL = "official"  # instead of a split file: the split that the cohort's authors published
LEFT_OUT = "none"  # split, in a split file, of a subject that the dataset must not contain
_FORMULA = ("=", "+", "@")  # first characters of a formula in a spreadsheet
PARTIAL = ".partial"  # folder of the partial results, in the output folder


@dataclasses.dataclass(frozen=True)
class PrepareSpec:
    """A cohort, the folder of its dataset, and how it is prepared.

    name: the source's name, for the manifest.
    split_file: a CSV of subject, split (train, val, test, or none to leave out) that lists every
        subject with images, by id or by pseudonym; or "official" for the published split. Without
        it, subjects are split by a hash of their id, whatever the key.
    pseudonym: names the subjects in everything that is written or raised; None keeps ids.
    measured: columns to add to the table, measured on the subjects' own files.

    Raises PrepareError for unknown planes and for impossible percentiles.
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
        """JSON of the settings that a run must share to continue another."""
        root = str(self.source.root.resolve())
        settings = {"source": self.name, "root": root, "format_version": FORMAT_VERSION}
        return json.dumps(settings | self._partials().settings(), indent=1, sort_keys=True)

    @functools.cached_property
    def partials(self) -> PartialResults:
        return dataclasses.replace(self._partials(), stamp=hashlib.sha256(self.settings.encode()).digest())

    def _partials(self) -> PartialResults:
        planes, folder = tuple(self.planes), self.output / PARTIAL
        return PartialResults(self.source, planes, self.grid, self.percentiles, folder, self.pseudonym, self.measured)

    def subject_splits(self) -> tuple[dict[str, str], list[ReportLine]]:
        """The split of every subject, in the order of the ids, and report lines on the split file.

        Raises PrepareError for a split file that cannot be used, and for ids that a spreadsheet
        would run as a formula.
        """
        ids = self.source.subjects()
        if self.pseudonym is None and any(i.startswith(_FORMULA) for i in ids):
            raise PrepareError(
                f"{self.source.root}: an id begins with one of {' '.join(_FORMULA)}, which a spreadsheet runs as a "
                "formula; rename the subject, or leave out --key=none"
            )
        if self.split_file is None:
            splits = splitting.assign(ids, self.split_fractions, self.split_seed).tolist()
            return dict(zip(ids, splits, strict=True)), []
        if str(self.split_file) == OFFICIAL:
            official = self.source.splits()
            if official is None:
                raise PrepareError(
                    f"{self.source.root}: this source knows no official split; name a CSV of subject,split"
                )
            return {i: official[i] for i in ids}, []
        return _read_splits(Path(self.split_file), ids, self.partials)

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        """The cohort's table. Raises CohortError where it has a column that is to be measured."""
        table = self.source.table()
        if table and self.measured:
            self.measured.check(table[1])
        return table

    def is_begun(self) -> bool:
        """Whether the output folder holds an unfinished run with these settings.

        Raises PrepareError where the folder holds anything else.
        """
        path = self.settings_file
        if path.is_file():  # with a dataset beside it, where a kill came before the partial results were removed
            if path.read_text() != self.settings:
                raise PrepareError(
                    f"{self.output} holds an unfinished run with other settings ({path}); "
                    "remove it or use the same settings again"
                )
            return True
        if (self.output / MANIFEST).exists():
            raise PrepareError(f"{self.output} already holds a dataset; name another output folder or remove it")
        if self.output.is_dir() and any(p.name != PARTIAL for p in self.output.iterdir()):
            raise PrepareError(f"{self.output} is not empty; name another output folder")
        return False

    def claim(self) -> None:
        """Begins a run in the output folder, or continues one with these settings.

        Any number of processes may do so at once. Raises PrepareError for a folder that holds
        something else or cannot be written.
        """
        path = self.settings_file
        try:
            if not self.is_begun():
                path.parent.mkdir(parents=True, exist_ok=True)
                if not write_once(path, self.settings.encode()):
                    self.is_begun()  # another process was first; this checks its settings
        except OSError as error:
            raise unwritable(error, self.output) from error

    @property
    def settings_file(self) -> Path:
        return self.output / PARTIAL / "settings.json"


def unwritable(error: OSError, output: Path) -> PrepareError:
    return PrepareError(f"{error.filename or output}: cannot be written ({error.strerror or error})")


def _read_splits(path: Path, ids: Sequence[str], partials: PartialResults) -> tuple[dict[str, str], list[ReportLine]]:
    """The splits of a file, by id, and its report lines. The file may hold ids or pseudonyms."""
    try:
        header, lines = read_lines(path)
    except TableError as error:
        raise PrepareError(f"{path}: {error}") from error
    if header != ("subject", "split"):
        raise PrepareError(f"{path}: the header is {','.join(header)}; must be subject,split")
    allowed = (*splitting.SPLITS, LEFT_OUT)
    id_of_name = {partials.name(i): i for i in ids}
    splits: dict[str, str] = {}
    for line, (name, split) in lines:
        if split not in allowed:
            raise PrepareError(f"{path}, line {line}: split {split!r} is not one of {', '.join(allowed)}")
        subject = id_of_name.get(name, name)
        if subject in splits:
            raise PrepareError(f"{path}, line {line}: the subject is listed twice")
        splits[subject] = split
    unlisted = [i for i in ids if i not in splits]
    if unlisted:
        raise PrepareError(
            f"{path}: {len(unlisted)} subjects with images are not listed, e.g. {partials.name(unlisted[0])}; "
            f"list them, with the split '{LEFT_OUT}' to leave them out"
        )
    with_images = set(ids)
    report = [(i, "left out", f"split {LEFT_OUT}") for i in ids if splits[i] == LEFT_OUT]
    report += [(i, "no images", "in the split file but no images") for i in splits if i not in with_images]
    return {i: splits[i] for i in ids}, report
