"""Cohort -> dataset: partial results of every subject, then one pass that assembles them.

A killed run continues where it stopped and ends in the same bytes. The manifest is written last.
"""

import contextlib
import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.contents import (
    REPORT_COLUMNS,
    ReportLine,
    annotated_structures,
    count_contents,
    read_report,
    write_report,
    write_stacks,
    write_subjects,
)
from morphojax.data.prepare.partials import PartialResults, write_all
from morphojax.data.prepare.spec import LEFT_OUT, PARTIAL, PrepareSpec, unwritable
from morphojax.data.store.dataset import MANIFEST, Dataset, Manifest
from morphojax.data.store.lock import LockError, locked
from morphojax.data.store.records import Shard, ShardWriter, describe
from morphojax.data.tables import cells
from morphojax.data.tables.schema import Schema


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did. `report` (subject, status, message) names subjects: never log it."""

    output: Path
    manifest: Manifest
    report: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What `prepare_shard` did, in subjects."""

    done: int
    failed: int


def prepare(
    spec: PrepareSpec,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    hidden: Collection[str] = (),
    finish: Callable[[Path], None] = lambda folder: None,
) -> Summary:
    """Prepares a cohort into `spec.output`: empty, absent, or left by a killed run of `spec`.

    workers: processes (default: one per CPU).
    hidden: ids that the report must not name (`withdrawals.Without` keeps them out of the rest).
    finish: may add files to the folder of the dataset, which is unfinished until then.

    With pseudonyms, subjects are ordered by them: the order of the ids would identify people.
    A subject that cannot be read is reported and left out; with `strict` it raises. Raises
    PrepareError, CohortError and KeyFileError.
    """
    output, partials = spec.output, spec.partials
    splits, report = spec.subject_splits()
    hidden = {*hidden, *map(partials.name, hidden)}
    report = [line for line in report if line[0] not in hidden]
    table = spec.table()  # before the images: a bad table is found within seconds
    ids = _order_subjects(spec, splits, report, table)
    spec.claim()
    with _alone(output):
        for part in (p for p in output.glob("*.partial") if p.is_file()):
            part.unlink()  # which a killed run was writing
        if (output / MANIFEST).exists():  # killed after it was written
            manifest, report_table = Dataset.open(output).manifest, read_report(output)
        else:
            failures = write_all(partials, ids, workers, strict, progress)
            report += [(i, "failed", failures[i]) for i in ids if i in failures]
            kept = tuple(i for i in ids if i not in failures)
            manifest, lines = _assemble(spec, kept, splits, report, table)
            report_table = pd.DataFrame(lines, columns=list(REPORT_COLUMNS))
        finish(output)
    _remove_partial_results(spec)
    return Summary(output, manifest, report_table)


def _assemble(
    spec: PrepareSpec,
    kept: tuple[str, ...],
    splits: Mapping[str, str],
    report: list[ReportLine],
    table: tuple[pd.DataFrame, Schema] | None,
) -> tuple[Manifest, list[ReportLine]]:
    """Writes the dataset of the subjects kept. Returns its manifest and its report."""
    output, partials = spec.output, spec.partials
    failed = [subject for subject, status, _ in report if status == "failed"]
    if not kept:
        write_report(output, _with_names(partials, report))
        raise PrepareError(f"none of the {len(failed)} subjects could be prepared; see {output / 'report.csv'}")
    images = _write_images(partials, kept, output)
    report += [(i, "warning", w) for i, found in zip(kept, images.warnings, strict=True) for w in found]
    report += _unmatched_rows(kept, splits, table)
    schema, table_warnings = _write_table(spec, kept, table, images.measured)
    write_subjects(output, [partials.name(i) for i in kept], [splits[i] for i in kept])
    lines = _with_names(partials, report)
    write_report(output, lines)
    manifest = _manifest(spec, images, [splits[i] for i in kept], lines, schema, table_warnings)
    manifest.write(output)
    return manifest, lines


def _remove_partial_results(spec: PrepareSpec) -> None:
    """The settings last: while they are there, the next run goes on."""
    for path in spec.partials.folder.glob("*"):
        if path != spec.settings_file:
            path.unlink(missing_ok=True)
    shutil.rmtree(spec.partials.folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Holds the lock of an unfinished run. Raises PrepareError where another process does, and
    where the output cannot be written.
    """
    try:
        with locked(output / PARTIAL / "lock"):
            yield
    except LockError as error:
        raise PrepareError(str(error)) from error
    except OSError as error:
        raise unwritable(error, output) from error


def prepare_shard(
    spec: PrepareSpec, shard: tuple[int, int], workers: int | None = None, strict: bool = False, progress: bool = True
) -> ShardSummary:
    """Writes the partial results of every N-th subject from the I-th on; shard: (I, N), I from 1.

    It does not read the table. `prepare` with the same spec makes what is missing and assembles.
    Shards may be prepared in any order, more than once, and at once on several machines.
    Raises as `prepare`.
    """
    first, step = shard
    if not 1 <= first <= step:
        raise PrepareError(f"shard {first}/{step}: must satisfy 1 <= I <= N")
    splits, _ = spec.subject_splits()
    if spec.pseudonym:
        spec.pseudonym.check_distinct(splits)
    spec.claim()
    ids = [i for i, split in splits.items() if split != LEFT_OUT][first - 1 :: step]
    try:
        failures = write_all(spec.partials, ids, workers, strict, progress)
    except OSError as error:
        raise unwritable(error, spec.output) from error
    return ShardSummary(len(ids) - len(failures), len(failures))


def _order_subjects(
    spec: PrepareSpec,
    splits: Mapping[str, str],
    report: Sequence[ReportLine],
    table: tuple[pd.DataFrame, Schema] | None,
) -> tuple[str, ...]:
    """The ids to prepare, in the order of the dataset. Raises KeyFileError for equal pseudonyms."""
    ids = tuple(splits)
    if spec.pseudonym:
        spec.pseudonym.check_distinct((*ids, *(i for i, _, _ in report), *(table[0].index if table else ())))
        ids = tuple(sorted(ids, key=spec.pseudonym))
    return tuple(i for i in ids if splits[i] != LEFT_OUT)


def _with_names(partials: PartialResults, report: Sequence[ReportLine]) -> list[ReportLine]:
    """The report with the names of the dataset in place of ids.

    With pseudonyms it is sorted by them: its order is otherwise that of the input's files, which
    would identify people.
    """
    named = [(partials.name(i), status, message) for i, status, message in report]
    return sorted(named) if partials.pseudonym else named


def _unmatched_rows(
    kept: Sequence[str], splits: Mapping[str, str], table: tuple[pd.DataFrame, Schema] | None
) -> list[ReportLine]:
    """Report lines for subjects without a table row, and for table rows without a subject."""
    if table is None:
        return []
    index = table[0].index
    known = set(index)
    lines = [(i, "no row", "images but no table row: all values missing") for i in kept if i not in known]
    return lines + [(i, "no images", "a table row but no images: not used") for i in index if i not in splits]


def _write_table(
    spec: PrepareSpec,
    kept: Sequence[str],
    table: tuple[pd.DataFrame, Schema] | None,
    measured: Sequence[Mapping[str, float]],
) -> tuple[Schema, Counter[str]]:
    """Writes table.csv, a row per subject kept; returns its schema and warnings about its cells."""
    raw, schema = table if table else (pd.DataFrame(index=pd.Index([], dtype=object)), Schema(()))
    warnings = Counter(dict.fromkeys(cells.check(raw, schema), 1))
    rows = raw.reindex(list(kept)).reset_index(drop=True)
    if spec.measured:
        rows, schema = spec.measured.join(rows, schema, measured)
    rows.to_csv(spec.output / "table.csv")
    return schema, warnings


@dataclasses.dataclass(frozen=True)
class _Images:
    """What was written of the images, by plane; and by subject the warnings and measured values."""

    slices: Mapping[str, tuple[Shard, ...]]
    native: Mapping[str, tuple[Shard, ...]]
    stacks: Mapping[str, list[dict[str, Any]]]
    warnings: Sequence[Sequence[str]]
    measured: Sequence[Mapping[str, float]]


def _write_images(partials: PartialResults, ids: Sequence[str], output: Path) -> _Images:
    """Writes records and stacks.csv of every plane, in one pass over the partial results."""
    slices = {p: ShardWriter(output, f"{p}/slices") for p in partials.planes}
    native = {p: ShardWriter(output, f"{p}/native") for p in partials.planes}
    stacks: dict[str, list[dict[str, Any]]] = {p: [] for p in partials.planes}
    warnings, measured = [], []
    next_slice = dict.fromkeys(partials.planes, 0)
    for index, subject in enumerate(ids):
        record = partials.read(subject)
        if record is None:
            raise PrepareError(f"{partials.path(subject)} was damaged or removed in the meantime; run again")
        warnings.append(list(record["warnings"]))
        measured.append(record["measured"])
        for plane, view in record["views"].items():
            for data in view["slices"]:
                slices[plane].write(data)
            for data in view["native"]:
                native[plane].write(data)
            for stack in view["stacks"]:
                stacks[plane].append({"subject": index, "first": next_slice[plane], **stack})
                next_slice[plane] += stack["slices"]
    for plane, rows in stacks.items():
        write_stacks(output, plane, rows)
    return _Images(
        slices={plane: writer.close() for plane, writer in slices.items()},
        native={plane: writer.close() for plane, writer in native.items()},
        stacks=stacks,
        warnings=warnings,
        measured=measured,
    )


def _manifest(
    spec: PrepareSpec,
    images: _Images,
    splits: Sequence[str],
    report: Sequence[ReportLine],
    schema: Schema,
    table_warnings: Counter[str],
) -> Manifest:
    """The manifest of the output folder. splits: by subject; report: with the dataset's names."""
    labelled, label_warnings = annotated_structures(images.stacks)
    warnings = Counter(w for subject in images.warnings for w in dict.fromkeys(subject))  # subjects per message
    files = ("subjects.csv", "table.csv", *(f"{p}/stacks.csv" for p in spec.planes))
    return Manifest(
        source=spec.name,
        grid=spec.grid,
        percentiles=spec.percentiles,
        planes=tuple(spec.planes),
        labelled=labelled,
        schema=schema,
        warnings=dict(sorted((warnings | table_warnings | label_warnings).items())),
        counts=count_contents(splits, images.stacks, (status for _, status, _ in report)),
        files=tuple(describe(spec.output, file) for file in files),
        slices=images.slices,
        native=images.native,
        pseudonyms=spec.pseudonym.check if spec.pseudonym else "",
    )
