"""Cohort -> dataset. Subject by subject into a folder of partial results, then assembled in one pass.

A subject's partial result appears whole or not at all, so a killed run continues where it stopped and ends in the same
bytes. The manifest is written last.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax import anatomy
from morphojax.data.prepare.partials import Job, PrepareError, run_all
from morphojax.data.prepare.spec import LEFT_OUT, PARTIAL, PrepareSpec, unwritable
from morphojax.data.store import splits as splitting
from morphojax.data.store.dataset import STACK_COLUMNS, Manifest
from morphojax.data.store.records import ShardWriter, describe, write_atomically
from morphojax.data.tables import cells
from morphojax.data.tables.schema import Schema


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did. `report` (subject, status, message) names subjects and is for files of the dataset only."""

    output: Path
    manifest: Manifest
    report: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Share:
    """What `prepare_share` did, in subjects."""

    done: int
    failed: int


def prepare(
    order: PrepareSpec,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    hidden: Collection[str] = (),
) -> Summary:
    """Prepares a cohort into `order.output`, which must be empty, absent or what a killed run of the same order left.

    workers: processes (default: one per CPU).
    hidden: ids that the report must not name, whoever else does (`exclusion.Without` keeps them out of all else).
    By pseudonym, subjects are in the order of these names, which tells nothing either.
    A subject that cannot be read is reported and left out; with `strict` it raises. Raises PrepareError, CohortError and KeyFileError.
    """
    output, job = order.output, order.job
    by_subject, report = order.subject_splits()
    ids, hidden = tuple(by_subject), {*hidden, *map(job.name, hidden)}
    report = [line for line in report if line[0] not in hidden]
    found = order.table()  # before the images: a bad table is a matter of seconds
    if order.pseudonym:
        order.pseudonym.distinct((*ids, *(i for i, _, _ in report), *(found[0].index if found else ())))
        ids = tuple(sorted(ids, key=order.pseudonym))
    ids = tuple(i for i in ids if by_subject[i] != LEFT_OUT)
    order.claim()
    try:
        failures = run_all(job, ids, workers, strict, progress)
        report += [(i, "failed", failures[i]) for i in ids if i in failures]
        kept = tuple(i for i in ids if i not in failures)
        if not kept:
            _write_report(output, _named(job, report))
            raise PrepareError(f"none of the {len(ids)} subjects could be prepared; see {output / 'report.csv'}")
        written = _assemble(job, kept, output)
        warnings = Counter(w for found_here in written.warnings for w in dict.fromkeys(found_here))
        report += [(i, "warning", w) for i, found_here in zip(kept, written.warnings, strict=True) for w in found_here]

        raw, schema = found if found else (pd.DataFrame(index=pd.Index([], dtype=object)), Schema(()))
        known = set(raw.index)
        report += [
            (i, "no row", "images but no table row: all values missing") for i in kept if i not in known and found
        ]
        report += [(i, "no images", "a table row but no images: not used") for i in raw.index if i not in by_subject]
        warnings |= Counter(dict.fromkeys(cells.check(raw, schema), 1))
        rows = raw.reindex(kept).reset_index(drop=True)
        if order.measured:
            rows, schema = order.measured.join(rows, schema, written.measured)
        rows.to_csv(output / "table.csv")
        split = [by_subject[i] for i in kept]
        report = _named(job, report)
        pd.DataFrame({"subject": [job.name(i) for i in kept], "split": split}).to_csv(
            output / "subjects.csv", index=False
        )
        _write_report(output, report)

        per_plane = {plane: count(written.stacks[plane]) for plane in order.planes}
        labelled = {plane: annotated(plane, written.stacks[plane], warnings) for plane in order.planes}
        statuses = Counter(status for _, status, _ in report)
        manifest = Manifest(
            source=order.name,
            grid=order.grid,
            percentiles=order.percentiles,
            planes=tuple(order.planes),
            labelled=labelled,
            schema=schema,
            warnings=dict(sorted(warnings.items())),
            counts={
                "subjects": {s: split.count(s) for s in splitting.SPLITS},
                "planes": per_plane,
                "failed": statuses["failed"],
                "left_out": statuses["left out"],
                "without_row": statuses["no row"],
                "rows_without_images": statuses["no images"],
            },
            files=tuple(
                describe(output, f) for f in ("subjects.csv", "table.csv", *(f"{p}/stacks.csv" for p in order.planes))
            ),
            slices={p: written.slices[p].close() for p in order.planes},
            native={p: written.native[p].close() for p in order.planes},
            pseudonyms=order.pseudonym.check if order.pseudonym else "",
        )
        manifest.write(output)
    except OSError as error:
        raise unwritable(error, output) from error
    shutil.rmtree(output / PARTIAL, ignore_errors=True)
    return Summary(output, manifest, pd.DataFrame(report, columns=["subject", "status", "message"]))


def prepare_share(
    order: PrepareSpec, share: tuple[int, int], workers: int | None = None, strict: bool = False, progress: bool = True
) -> Share:
    """The partial results of every N-th subject from the I-th on, for `share` (I, N) with I from 1. The table is not looked at.

    `prepare` of the same order makes what is missing and assembles. Shares may be prepared in any order, at once on several machines, and
    more than once. Raises as `prepare`.
    """
    first, step = share
    if not 1 <= first <= step:
        raise PrepareError(f"share {first}/{step}: must satisfy 1 <= I <= N")
    by_subject, _ = order.subject_splits()
    if order.pseudonym:
        order.pseudonym.distinct(by_subject)
    order.claim()
    ids = [i for i, split in by_subject.items() if split != LEFT_OUT][first - 1 :: step]
    try:
        failures = run_all(order.job, ids, workers, strict, progress)
    except OSError as error:
        raise unwritable(error, order.output) from error
    return Share(len(ids) - len(failures), len(failures))


def _named(job: Job, report: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The report with the subjects' names. By pseudonym, its order is theirs: that of the files that it comes from would tell ids."""
    named = [(job.name(i), status, message) for i, status, message in report]
    return sorted(named) if job.pseudonym else named


@dataclasses.dataclass(frozen=True)
class _Written:
    slices: dict[str, ShardWriter]
    native: dict[str, ShardWriter]
    stacks: dict[str, list[dict[str, Any]]]
    warnings: list[list[str]]  # per subject, as are the values of measured columns
    measured: list[Mapping[str, float]]


def _assemble(job: Job, ids: Sequence[str], output: Path) -> _Written:
    """One pass over the partial results, in the order of the subjects."""
    written = _Written(
        {p: ShardWriter(output, f"{p}/slices") for p in job.planes},
        {p: ShardWriter(output, f"{p}/native") for p in job.planes},
        {p: [] for p in job.planes},
        [],
        [],
    )
    first = dict.fromkeys(job.planes, 0)
    for index, subject in enumerate(ids):
        record = job.read(subject)
        if record is None:
            raise PrepareError(f"{job.path(subject)} was damaged or removed in the meantime; run again")
        written.warnings.append(list(record["warnings"]))
        written.measured.append(record["measured"])
        for plane, view in record["views"].items():
            for data in view["slices"]:
                written.slices[plane].write(data)
            for data in view["native"]:
                written.native[plane].write(data)
            for stack in view["stacks"]:
                written.stacks[plane].append({"subject": index, "first": first[plane], **stack})
                first[plane] += stack["slices"]
    for plane, stacks in written.stacks.items():
        write_stacks(output, plane, stacks)
    return written


def write_stacks(output: Path, plane: str, stacks: Sequence[Mapping[str, Any]]) -> None:
    (output / plane).mkdir(exist_ok=True)
    pd.DataFrame(list(stacks), columns=list(STACK_COLUMNS)).to_csv(output / plane / "stacks.csv", index=False)


def count(stacks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What a plane holds."""
    labelled = [s for s in stacks if s["structures"]]
    return {
        "subjects": len({s["subject"] for s in stacks}),
        "stacks": len(stacks),
        "slices": sum(s["slices"] for s in stacks),
        "labelled_stacks": len(labelled),
        "labelled_subjects": len({s["subject"] for s in labelled}),
        "label_voxels": sum(s["voxels"] for s in stacks),
        "label_voxels_cut": sum(s["cut"] for s in stacks),
    }


def annotated(plane: str, stacks: Sequence[Mapping[str, Any]], warnings: Counter[str]) -> tuple[str, ...]:
    """The structures that somebody has annotated in a plane; subjects that lack some of them are counted."""
    schemes = {s["subject"]: set(s["structures"].split()) for s in stacks if s["structures"]}
    everything = set().union(*schemes.values())
    if partly := sum(scheme != everything for scheme in schemes.values()):
        warnings[
            f"{plane}: only some of the plane's annotated structures are annotated; the others are no background"
        ] = partly
    return tuple(s for s in anatomy.STRUCTURES if s in everything)


def _write_report(output: Path, report: Sequence[tuple[str, str, str]]) -> None:
    frame = pd.DataFrame(list(report), columns=["subject", "status", "message"])
    write_atomically(output / "report.csv", frame.to_csv(index=False).encode())
