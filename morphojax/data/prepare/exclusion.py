"""Removes subjects who withdrew from a prepared dataset. No message contains an id."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from morphojax.data.prepare.contents import (
    annotated_structures,
    count_contents,
    read_report,
    write_stacks,
    write_subjects,
)
from morphojax.data.prepare.partials import measure_cut
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.store.dataset import MANIFEST, Dataset, DatasetError
from morphojax.data.store.records import Records, Shard, ShardWriter, describe, encode
from morphojax.data.tables import cells

_OUTSIDE_MANIFEST = ("report.csv", "contact_sheet.png")  # files of a dataset that its manifest does not list


@dataclasses.dataclass(frozen=True)
class Excluded:
    """What `exclude` did. `unknown`: ids of the list that the dataset does not know."""

    removed: int
    remaining: int
    unknown: int
    fingerprint: str


def exclude(
    root: str | Path,
    excluded: frozenset[str],
    finish: Callable[[Path], None] = lambda folder: None,
    pseudonym: Pseudonyms | None = None,
) -> Excluded:
    """Removes the subjects of a list from a dataset, as if they had never been prepared.

    The dataset is written anew beside the old one, `finish(folder)` may add to it, and then it
    replaces the old one. A run that was killed leaves one of the two complete, and the next run
    completes it.

    Raises DatasetError where the dataset is damaged, where nobody would remain, where the folder
    holds files that are not part of the dataset (they may concern an excluded subject), and
    where `pseudonym` is not the key that the dataset was prepared with.
    """
    root = Path(root).resolve()
    new, old = root.with_name(f"{root.name}.excluding"), root.with_name(f"{root.name}.before_exclusion")
    try:
        if not root.exists() and old.is_dir():  # killed between the two renames below
            (new if (new / MANIFEST).is_file() else old).rename(root)
        dataset = Dataset.open(root, verify=True)
        excluded = _names(dataset, excluded, pseudonym)
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        _refuse_other_files(dataset)
        report = read_report(root)
        known = {*dataset.subjects, *report["subject"]}
        kept = [index for index, name in enumerate(dataset.subjects) if name not in excluded]
        if not kept:
            raise DatasetError(f"{root}: every subject is on the list; remove the dataset instead")
        if known & excluded:
            try:
                _rewrite(dataset, kept, report[~report["subject"].isin(list(excluded))], new)
                finish(new)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            root.rename(old)
            new.rename(root)
            shutil.rmtree(old)
        removed, fingerprint = len(dataset.subjects) - len(kept), Dataset.open(root).fingerprint
        return Excluded(removed, len(kept), len(excluded - known), fingerprint)
    except OSError as error:
        raise DatasetError(f"{error.filename or root}: cannot be written ({error.strerror or error})") from error


def _names(dataset: Dataset, excluded: frozenset[str], pseudonym: Pseudonyms | None) -> frozenset[str]:
    """The ids of a list as the dataset names them.

    Raises DatasetError for a missing, unneeded or wrong key: the list would match nobody, and the
    withdrawal would seem to be applied.
    """
    check = dataset.manifest.pseudonyms
    if check and pseudonym is None:
        raise DatasetError(
            f"{dataset.root} names its subjects by pseudonyms: add --key=FILE, the morphojax.key beside its raw data"
        )
    if pseudonym is not None and check != pseudonym.check:
        how = "with another key; name that one" if check else "without a key; leave out --key"
        raise DatasetError(f"{dataset.root} was prepared {how}")
    return frozenset(map(pseudonym, excluded)) if pseudonym else excluded


def _refuse_other_files(dataset: Dataset) -> None:
    manifest = dataset.manifest
    shards: list[Shard] = [*manifest.files]
    for by_plane in (manifest.slices, manifest.native):
        shards += [shard for plane_shards in by_plane.values() for shard in plane_shards]
    expected = {MANIFEST, *_OUTSIDE_MANIFEST, *(shard.path for shard in shards)}
    present = {str(p.relative_to(dataset.root)) for p in dataset.root.rglob("*") if not p.is_dir()}
    if other := sorted(present - expected):
        raise DatasetError(
            f"{dataset.root} holds {len(other)} files that are no part of the dataset, e.g. {other[0]}; "
            "check whether they concern an excluded subject, and move them away"
        )


def _rewrite(dataset: Dataset, kept: Sequence[int], report: pd.DataFrame, output: Path) -> None:
    """Writes the dataset of the subjects `kept` (by index) into a new folder, its manifest last."""
    old = dataset.manifest
    output.mkdir()
    new_index = {index: n for n, index in enumerate(kept)}
    planes = {plane: _copy_plane(dataset, plane, new_index, output) for plane in old.planes}
    stacks = {plane: copied.stacks for plane, copied in planes.items()}
    table = dataset.table.iloc[list(kept)].reset_index(drop=True)
    table.to_csv(output / "table.csv")
    splits = dataset.splits[list(kept)].tolist()
    write_subjects(output, [dataset.subjects[index] for index in kept], splits)
    report.to_csv(output / "report.csv", index=False)

    of_subjects = report.loc[report["status"] == "warning", ["subject", "message"]].drop_duplicates()
    warnings = Counter[str](of_subjects["message"])  # subjects per message
    of_table = Counter(dict.fromkeys(cells.check(table, old.schema), 1))
    labelled, of_labels = annotated_structures(stacks)
    manifest = dataclasses.replace(
        old,
        labelled=labelled,
        warnings=dict(sorted((warnings | of_table | of_labels).items())),
        counts=dict(old.counts) | count_contents(splits, stacks, report["status"]),
        files=tuple(describe(output, file.path) for file in old.files),
        slices={plane: copied.slices for plane, copied in planes.items()},
        native={plane: copied.native for plane, copied in planes.items()},
    )
    manifest.write(output)


@dataclasses.dataclass(frozen=True)
class _Plane:
    stacks: list[dict[str, object]]  # rows of stacks.csv, with `voxels` and `cut`
    slices: tuple[Shard, ...]
    native: tuple[Shard, ...]


def _copy_plane(dataset: Dataset, plane: str, new_index: Mapping[int, int], output: Path) -> _Plane:
    """Writes one plane of the subjects that have a new index."""
    slices, native = ShardWriter(output, f"{plane}/slices"), ShardWriter(output, f"{plane}/native")
    slice_records, native_records = dataset.slices(plane), Records(dataset.root, dataset.manifest.native[plane])
    stacks, first = [], 0
    for row, stack in enumerate(dataset.stacks(plane).to_dict("records")):
        if stack["subject"] not in new_index:
            continue
        for record in range(stack["first"], stack["first"] + stack["slices"]):
            slices.write(encode(slice_records[record]))
        native.write(encode(native_records[row]))
        label, placement = dataset.native(plane, row)
        voxels, cut = measure_cut(label, placement, dataset.manifest.grid.size) if label is not None else (0, 0)
        copied = {key: stack[key] for key in ("phase", "phase_from", "slices", "structures")}
        index = new_index[stack["subject"]]
        stacks.append({"subject": index, "first": first, **copied, "voxels": voxels, "cut": cut})
        first += stack["slices"]
    write_stacks(output, plane, stacks)
    return _Plane(stacks, slices.close(), native.close())
