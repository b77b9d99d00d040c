"""Subjects who withdraw: left out when a cohort is prepared, and taken out of a dataset that is prepared already.

A list of withdrawals holds one id a line, or is a CSV whose first column is the id. An id is never part of a message.
"""

import csv
import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.prepare.assemble import annotated, count, write_stacks
from morphojax.data.prepare.partials import measure_cut
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.base import CohortError, Source, Subject
from morphojax.data.store.dataset import MANIFEST, Dataset, DatasetError
from morphojax.data.store.records import Records, Shard, ShardWriter, describe, encode
from morphojax.data.store.splits import SPLITS
from morphojax.data.tables import cells as tables
from morphojax.data.tables.schema import Schema
from morphojax.data.tables.ukb_headers import IDS

_HEADERS = (*IDS, "subject", "id")
_EXTRAS = ("report.csv", "contact_sheet.png")


def read_list(path: str | Path) -> frozenset[str]:
    """The ids of a list of withdrawals; a header and blank lines are passed over.

    Raises CohortError for a file that cannot be read, holds no id, or ids that a spreadsheet has rounded.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            cells = [(re.split(r"[;\t]", row[0])[0].strip(), n) for n, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(
            f"{path}: cannot be read as a list of ids ({error}); save it as text, one id a line"
        ) from error
    cells = [(text, line) for text, line in cells if text]
    if cells and cells[0][0].lower() in _HEADERS:
        cells = cells[1:]
    rounded = [
        line
        for text, line in cells
        if re.fullmatch(r"[-+]?[0-9]*[.,][0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE]\+?[0-9]+", text)
    ]
    if rounded:
        raise CohortError(
            f"{path}, line {rounded[0]}: a number with a point, not an id; a spreadsheet may have rounded it"
        )
    if not cells:
        raise CohortError(f"{path}: holds no id")
    return frozenset(text for text, _ in cells)


@dataclasses.dataclass(frozen=True)
class Without:
    """A source without the subjects of a list: their images are not read, and the table, the published split and the report know
    nothing of them."""

    source: Source
    listed: frozenset[str]

    @property
    def root(self) -> Path:
        return self.source.root

    @property
    def frames(self) -> str:
        return self.source.frames

    def subjects(self) -> Sequence[str]:
        kept = [i for i in self.source.subjects() if i not in self.listed]
        if not kept:
            raise CohortError(f"{self.root}: every subject is on the list of exclusions; nothing is left to prepare")
        return kept

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        return self.source.read(subject, planes)

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        found = self.source.table()
        return (found[0][~found[0].index.isin(list(self.listed))], found[1]) if found else None

    def splits(self) -> Mapping[str, str] | None:
        found = self.source.splits()
        return {i: split for i, split in found.items() if i not in self.listed} if found else found

    def present(self) -> int:
        """How many of the list the cohort has, with images or a table row."""
        found = self.source.table()
        return len(self.listed & {*self.source.subjects(), *(found[0].index if found else ())})


@dataclasses.dataclass(frozen=True)
class Excluded:
    """What `exclude` did. `unknown`: ids of the list of which the dataset knew nothing."""

    removed: int
    remaining: int
    unknown: int
    fingerprint: str


def exclude(
    root: str | Path,
    listed: frozenset[str],
    finish: Callable[[Path], None] = lambda folder: None,
    pseudonym: Pseudonyms | None = None,
) -> Excluded:
    """Takes the subjects of a list out of a prepared dataset: records, stacks, table, splits, report, as if never prepared.

    The dataset is written anew beside the old one, `finish(folder)` may add to it, and then takes its place; the old one is removed. A run
    that was killed leaves one of them whole, and is completed by the next. Raises DatasetError, where the dataset is damaged, where nobody
    would remain, where the folder holds files that are no part of it (they may hold what is to go), and where `pseudonym` is not of the key
    with which the dataset was prepared.
    """
    root = Path(root).resolve()
    fresh, old = root.with_name(f"{root.name}.excluding"), root.with_name(f"{root.name}.before_exclusion")
    try:
        if not root.exists() and old.is_dir():  # killed between the two renames below
            (fresh if (fresh / MANIFEST).is_file() else old).rename(root)
        dataset = Dataset.open(root, verify=True)
        listed = _names(dataset, listed, pseudonym)
        for stale in (fresh, old):
            if stale.exists():
                shutil.rmtree(stale)
        _refuse_strangers(dataset)
        report = _read_report(root)
        known = {*dataset.subjects, *report["subject"]}
        kept = [index for index, i in enumerate(dataset.subjects) if i not in listed]
        removed = len(dataset.subjects) - len(kept)
        if not kept:
            raise DatasetError(f"{root}: every subject is on the list; remove the dataset instead")
        if known & listed:
            try:
                _rewrite(dataset, kept, report[~report["subject"].isin(list(listed))], fresh)
                finish(fresh)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            root.rename(old)
            fresh.rename(root)
            shutil.rmtree(old)
        return Excluded(removed, len(kept), len(listed - known), Dataset.open(root).fingerprint)
    except OSError as error:
        raise DatasetError(f"{error.filename or root}: cannot be written ({error.strerror or error})") from error


def _names(dataset: Dataset, listed: frozenset[str], pseudonym: Pseudonyms | None) -> frozenset[str]:
    """The ids of a list as the dataset names them. A list that found nobody for want of the key would pass for one that is done."""
    made = dataset.manifest.pseudonyms
    if made and pseudonym is None:
        raise DatasetError(
            f"{dataset.root} names its subjects by pseudonyms: add --key=FILE, the morphojax.key beside its raw data"
        )
    if pseudonym is not None and made != pseudonym.check:
        how = "with another key; name that one" if made else "without a key; leave out --key"
        raise DatasetError(f"{dataset.root} was prepared {how}")
    return frozenset(map(pseudonym, listed)) if pseudonym else listed


def _refuse_strangers(dataset: Dataset) -> None:
    manifest = dataset.manifest
    shards: list[Shard] = [*manifest.files]
    for by_plane in (manifest.slices, manifest.native):
        shards += [shard for found in by_plane.values() for shard in found]
    ours = {MANIFEST, *_EXTRAS, *(shard.path for shard in shards)}
    found = {str(p.relative_to(dataset.root)) for p in dataset.root.rglob("*") if not p.is_dir()}
    if strangers := sorted(found - ours):
        raise DatasetError(
            f"{dataset.root} holds {len(strangers)} files that are no part of the dataset, e.g. {strangers[0]}; move them away, and see "
            "whether they tell of who is to go"
        )


def _read_report(root: Path) -> pd.DataFrame:
    path = root / "report.csv"
    if not path.is_file():
        raise DatasetError(
            f"{path} not found: without it the subjects that it counts cannot be counted anew; copy it back"
        )
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _rewrite(dataset: Dataset, kept: Sequence[int], report: pd.DataFrame, output: Path) -> None:
    """The dataset of the subjects `kept` (by index) into a new folder, its manifest last."""
    old = dataset.manifest
    output.mkdir()
    position = {index: n for n, index in enumerate(kept)}
    stacks = {plane: _copy(dataset, plane, position, output) for plane in old.planes}
    warnings = Counter[str](
        message
        for _, message in {
            *report.loc[report["status"] == "warning", ["subject", "message"]].itertuples(index=False, name=None)
        }
    )
    table = dataset.table.iloc[list(kept)].reset_index(drop=True)
    warnings |= Counter(dict.fromkeys(tables.check(table, old.schema), 1))
    labelled = {plane: annotated(plane, found, warnings) for plane, (found, _, _) in stacks.items()}
    table.to_csv(output / "table.csv")
    split = dataset.splits[list(kept)].tolist()
    names = [dataset.subjects[index] for index in kept]
    pd.DataFrame({"subject": names, "split": split}).to_csv(output / "subjects.csv", index=False)
    report.to_csv(output / "report.csv", index=False)
    statuses = Counter(report["status"])
    manifest = dataclasses.replace(
        old,
        labelled=labelled,
        warnings=dict(sorted(warnings.items())),
        counts=dict(old.counts)
        | {
            "subjects": {s: split.count(s) for s in SPLITS},
            "planes": {plane: count(found) for plane, (found, _, _) in stacks.items()},
            "failed": statuses["failed"],
            "left_out": statuses["left out"],
            "without_row": statuses["no row"],
            "rows_without_images": statuses["no images"],
        },
        files=tuple(describe(output, file.path) for file in old.files),
        slices={plane: slices for plane, (_, slices, _) in stacks.items()},
        native={plane: native for plane, (_, _, native) in stacks.items()},
    )
    manifest.write(output)


def _copy(
    dataset: Dataset, plane: str, position: Mapping[int, int], output: Path
) -> tuple[list[dict[str, object]], tuple[Shard, ...], tuple[Shard, ...]]:
    """Writes one plane of the subjects that keep a position; its stacks, as `prepare` counts them, and its shards."""
    slices, native = ShardWriter(output, f"{plane}/slices"), ShardWriter(output, f"{plane}/native")
    images, labels = dataset.slices(plane), Records(dataset.root, dataset.manifest.native[plane])
    stacks, first = [], 0
    size = dataset.manifest.grid.size
    for row, stack in enumerate(dataset.stacks(plane).to_dict("records")):
        if stack["subject"] not in position:
            continue
        for record in range(stack["first"], stack["first"] + stack["slices"]):
            slices.write(encode(images[record]))
        native.write(encode(labels[row]))
        label, placement = dataset.native(plane, row)
        voxels, cut = measure_cut(label, placement, size) if label is not None else (0, 0)
        about = {key: stack[key] for key in ("phase", "phase_from", "slices", "structures")}
        stacks.append({"subject": position[stack["subject"]], "first": first, **about, "voxels": voxels, "cut": cut})
        first += stack["slices"]
    write_stacks(output, plane, stacks)
    return stacks, slices.close(), native.close()
