"""Cohort -> dataset. Subject by subject into a folder of partial results, then assembled in one pass.

A subject's partial result appears whole or not at all, so a killed run continues where it stopped and ends in the same
bytes. The manifest is written last.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data import splits as splitting
from morphojax.data import table as tables
from morphojax.data.dataset import FORMAT_VERSION, MANIFEST, STACK_COLUMNS, Manifest
from morphojax.data.geometry import Grid
from morphojax.data.measured import Measured
from morphojax.data.partials import Job, PrepareError, check_planes, results, run_all
from morphojax.data.pseudonyms import Pseudonyms
from morphojax.data.records import SHARD_OVERHEAD, SHARD_RECORDS, ShardWriter, describe, write_atomically, write_once
from morphojax.data.sources.base import Source
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.sources.synthetic import cohort as synthetic_cohort

PERCENTILES = (0.5, 99.5)
SPLIT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
OFFICIAL = "official"  # in place of a split file: the split that the cohort's makers published
LEFT_OUT = "none"  # in a split file: a subject that is not to be part of the dataset
_PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `prepare` would do. `splits` and `planes` count as the manifest does; `failures` by index among the source's subjects."""

    splits: Mapping[str, int]
    planes: Mapping[str, Mapping[str, int]]
    columns: int
    bytes: int  # about
    failures: Mapping[int, str]
    left_out: int
    warnings: Mapping[str, int]


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
    source: Source,
    output: str | Path,
    *,
    name: str,
    planes: Sequence[str] = ("sax",),
    grid: Grid,
    percentiles: tuple[float, float] = PERCENTILES,
    split_file: str | Path | None = None,
    split_fractions: Mapping[str, float] | None = None,
    split_seed: int = 0,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    hidden: Collection[str] = (),
    pseudonym: Pseudonyms | None = None,
    measured: Measured | None = None,
) -> Summary:
    """Prepares a cohort into `output`, which must be empty, absent or what a killed run with the same settings left.

    name: of the source, for the manifest. split_file: CSV of subject, split (train, val, test, or none to leave out) that
    lists every subject with images, or "official": as the cohort's makers published it; without it, by hash of the id.
    workers: processes (default: one per CPU).
    hidden: ids that the report must not name, whoever else does (`exclusion.Without` keeps them out of all else).
    pseudonym: names the subjects in all that is written and raised, in the order of these names, which tells nothing either. A split by
    hash is that of the ids, whatever the key; a split file may name either.
    measured: columns for the table, from the subjects' own files.
    A subject that cannot be read is reported and left out; with `strict` it raises. Raises PrepareError, CohortError and KeyFileError.
    """
    output = Path(output)
    low, high = percentiles
    job = _job(source, output, name, planes, grid, percentiles, pseudonym, measured)
    ids = tuple(source.subjects())
    by_subject, report = _split(job, ids, split_file, split_fractions or SPLIT_FRACTIONS, split_seed)
    hidden = {*hidden, *map(job.name, hidden)}
    report = [line for line in report if line[0] not in hidden]
    found = read_table(source, measured)  # before the images: a bad table is a matter of seconds
    if pseudonym:
        pseudonym.distinct((*ids, *(i for i, _, _ in report), *(found[0].index if found else ())))
        ids = tuple(sorted(ids, key=pseudonym))
    ids = tuple(i for i in ids if by_subject[i] != LEFT_OUT)
    try:
        _claim(output, _settings(job, name))
        failures = run_all(job, ids, workers, strict, progress)
        report += [(i, "failed", failures[i]) for i in ids if i in failures]
        kept = tuple(i for i in ids if i not in failures)
        if not kept:
            _write_report(output, _named(job, report))
            raise PrepareError(f"none of the {len(ids)} subjects could be prepared; see {output / 'report.csv'}")
        written = _assemble(job, kept, output)
        warnings = Counter(w for found_here in written.warnings for w in dict.fromkeys(found_here))
        report += [(i, "warning", w) for i, found_here in zip(kept, written.warnings, strict=True) for w in found_here]

        raw, schema = found if found else (pd.DataFrame(index=pd.Index([], dtype=object)), tables.Schema(()))
        known = set(raw.index)
        report += [
            (i, "no row", "images but no table row: all values missing") for i in kept if i not in known and found
        ]
        report += [(i, "no images", "a table row but no images: not used") for i in raw.index if i not in by_subject]
        warnings |= Counter(dict.fromkeys(tables.check(raw, schema), 1))
        rows = raw.reindex(kept).reset_index(drop=True)
        if measured:
            rows, schema = measured.join(rows, schema, written.measured)
        rows.to_csv(output / "table.csv")
        split = [by_subject[i] for i in kept]
        report = _named(job, report)
        pd.DataFrame({"subject": [job.name(i) for i in kept], "split": split}).to_csv(
            output / "subjects.csv", index=False
        )
        _write_report(output, report)

        per_plane = {plane: count(written.stacks[plane]) for plane in planes}
        labelled = {plane: annotated(plane, written.stacks[plane], warnings) for plane in planes}
        statuses = Counter(status for _, status, _ in report)
        manifest = Manifest(
            source=name,
            grid=grid,
            percentiles=(low, high),
            planes=tuple(planes),
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
                describe(output, f) for f in ("subjects.csv", "table.csv", *(f"{p}/stacks.csv" for p in planes))
            ),
            slices={p: written.slices[p].close() for p in planes},
            native={p: written.native[p].close() for p in planes},
            pseudonyms=pseudonym.check if pseudonym else "",
        )
        manifest.write(output)
    except OSError as error:
        raise _unwritable(error, output) from error
    shutil.rmtree(output / _PARTIAL, ignore_errors=True)
    return Summary(output, manifest, pd.DataFrame(report, columns=["subject", "status", "message"]))


def claim(
    source: Source,
    output: str | Path,
    *,
    name: str,
    planes: Sequence[str] = ("sax",),
    grid: Grid,
    percentiles: tuple[float, float] = PERCENTILES,
    split_file: str | Path | None = None,
    split_fractions: Mapping[str, float] | None = None,
    split_seed: int = 0,
    pseudonym: Pseudonyms | None = None,
    measured: Measured | None = None,
) -> tuple[Job, list[str]]:
    """Begins a `prepare` with these arguments, or takes one up: by which job which subjects are prepared, in the order of the ids.

    Looks at neither images nor the table. Any number of processes may do so at once; other settings are refused. Raises as `prepare`.
    """
    job = _job(source, Path(output), name, planes, grid, percentiles, pseudonym, measured)
    ids = source.subjects()
    by_subject, _ = _split(job, ids, split_file, split_fractions or SPLIT_FRACTIONS, split_seed)
    if pseudonym:
        pseudonym.distinct(ids)
    try:
        _claim(Path(output), _settings(job, name))
    except OSError as error:
        raise _unwritable(error, output) from error
    return job, [i for i in ids if by_subject[i] != LEFT_OUT]


def prepare_share(
    source: Source,
    output: str | Path,
    share: tuple[int, int],
    *,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    **options: Any,
) -> Share:
    """The partial results of every N-th subject from the I-th on, for `share` (I, N) with I from 1. `options` are those of `claim`.

    `prepare` with the same options makes what is missing and assembles. Shares may be prepared in any order, at once on several machines,
    and more than once. Raises as `prepare`.
    """
    first, step = share
    if not 1 <= first <= step:
        raise PrepareError(f"share {first}/{step}: must satisfy 1 <= I <= N")
    job, ids = claim(source, output, **options)
    ids = ids[first - 1 :: step]
    try:
        failures = run_all(job, ids, workers, strict, progress)
    except OSError as error:
        raise _unwritable(error, output) from error
    return Share(len(ids) - len(failures), len(failures))


def _unwritable(error: OSError, output: str | Path) -> PrepareError:
    return PrepareError(f"{error.filename or output}: cannot be written ({error.strerror or error})")


def plan(
    source: Source,
    output: str | Path,
    *,
    name: str,
    planes: Sequence[str] = ("sax",),
    grid: Grid,
    percentiles: tuple[float, float] = PERCENTILES,
    split_file: str | Path | None = None,
    split_fractions: Mapping[str, float] | None = None,
    split_seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    pseudonym: Pseudonyms | None = None,
    measured: Measured | None = None,
) -> Plan:
    """What `prepare` would do with the same arguments, and raise; writes nothing. It reads every image: what a reader keeps of a cine, and
    whether a label is one, are matters of voxels."""
    job = _job(source, Path(output), name, planes, grid, percentiles, pseudonym, measured)
    ids = tuple(source.subjects())
    by_subject, _ = _split(job, ids, split_file, split_fractions or SPLIT_FRACTIONS, split_seed)
    found = read_table(source, measured)
    _is_begun(Path(output), _settings(job, name))
    index, failures, warnings = {i: n for n, i in enumerate(ids)}, {}, Counter[str]()
    kept, size, columns = Counter[str](), 0, set[str]()
    counts = {plane: Counter(subjects=0, stacks=0, slices=0, labelled_stacks=0) for plane in planes}
    todo = [i for i in ids if by_subject[i] != LEFT_OUT]
    with tqdm(total=len(todo), desc="dry run", unit="subject", disable=not progress) as bar:
        for subject, measures in results(job.measure, todo, workers):
            bar.update()
            if isinstance(measures, str):
                failures[index[subject]] = measures
                continue
            kept[by_subject[subject]] += 1
            size += measures["bytes"]
            warnings.update(set(measures["warnings"]))
            columns.update(measures["measured"])
            for plane, (stacks, slices, labelled) in measures["planes"].items():
                counts[plane].update(subjects=1, stacks=stacks, slices=slices, labelled_stacks=labelled)
    for count in counts.values():
        size += SHARD_OVERHEAD * sum(-(-count[records] // SHARD_RECORDS) for records in ("slices", "stacks"))
    splits = {s: kept[s] for s in splitting.SPLITS}
    columns = (len(found[1].columns) if found else 0) + len(columns)
    failures = dict(sorted(failures.items()))
    return Plan(splits, counts, columns, size, failures, len(ids) - len(todo), dict(sorted(warnings.items())))


def read_table(source: Source, measured: Measured | None) -> tuple[pd.DataFrame, tables.Schema] | None:
    """The cohort's own table, found fit to be joined by the columns that are measured. Raises as `prepare`."""
    found = source.table()
    if found and measured:
        measured.check(found[1])
    return found


def _job(
    source: Source,
    output: Path,
    name: str,
    planes: Sequence[str],
    grid: Grid,
    percentiles: tuple[float, float],
    pseudonym: Pseudonyms | None,
    measured: Measured | None,
) -> Job:
    check_planes(planes)
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise PrepareError(f"percentiles {low}, {high}: must satisfy 0 <= low < high <= 100")
    job = Job(source, tuple(planes), grid, (low, high), output / _PARTIAL, pseudonym, measured)
    return dataclasses.replace(job, stamp=hashlib.sha256(_text(_settings(job, name)).encode()).digest())


def _settings(job: Job, name: str) -> dict[str, Any]:
    """What a run that is taken up must share with the one that was killed."""
    root = str(job.source.root.resolve())
    return {"source": name, "root": root, "format_version": FORMAT_VERSION} | job.settings()


def _split(
    job: Job, ids: Sequence[str], path: str | Path | None, fractions: Mapping[str, float], seed: int
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The split of every subject, and what there is to report about the split file."""
    if path is None:
        return dict(zip(ids, splitting.assign(ids, fractions, seed).tolist(), strict=True)), []
    if str(path) == OFFICIAL:
        official = job.source.splits()
        if official is None:
            raise PrepareError(f"{job.source.root}: this source knows no official split; name a CSV of subject,split")
        return {i: official[i] for i in ids}, []
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


def _named(job: Job, report: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The report with the subjects' names. By pseudonym, its order is theirs: that of the files that it comes from would tell ids."""
    named = [(job.name(i), status, message) for i, status, message in report]
    return sorted(named) if job.pseudonym else named


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Makes the output folder ours, or refuses one that holds something else."""
    if not _is_begun(output, settings):
        path = output / _PARTIAL / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not write_once(path, _text(settings).encode()):
            _is_begun(output, settings)  # another process was first, perhaps with other settings


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=1, sort_keys=True)


def _is_begun(output: Path, settings: dict[str, Any]) -> bool:
    """Whether the output folder holds an unfinished run of these settings; PrepareError where it holds anything else."""
    if (output / MANIFEST).exists():
        raise PrepareError(f"{output} already holds a dataset; name another output folder or remove it")
    path = output / _PARTIAL / "settings.json"
    if path.is_file():
        if path.read_text() != _text(settings):
            raise PrepareError(
                f"{output} holds an unfinished run with other settings ({path}); remove it or repeat them"
            )
        return True
    if output.is_dir() and any(p.name != _PARTIAL for p in output.iterdir()):
        raise PrepareError(f"{output} is not empty; name another output folder")
    return False


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


def default_cache() -> Path:
    """Where the embedded cohort is kept: $MORPHOJAX_CACHE, else ~/.cache/morphojax."""
    return Path(os.environ.get("MORPHOJAX_CACHE") or Path.home() / ".cache" / "morphojax")


def ensure_synthetic(
    cache_dir: Path, subjects: int, seed: int, grid: Grid, planes: Sequence[str], workers: int | None = None
) -> Path:
    """The prepared synthetic cohort of these settings, generated and prepared if it is not in the cache yet.

    Processes that ask at the same time wait for the first. Raises PrepareError.
    """
    cohort = {"subjects": subjects, "seed": seed, "version": synthetic_cohort.VERSION}
    settings = {"grid": grid.to_json(), "planes": list(planes), "percentiles": PERCENTILES, "format": FORMAT_VERSION}
    root = cache_dir / f"synthetic-{_key(cohort)}"
    output = root / f"dataset-{_key(settings)}"
    if (output / MANIFEST).is_file():
        return output
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (output / MANIFEST).is_file():
                source = Synthetic(generate(root / "cohort", subjects=subjects, seed=seed, workers=workers))
                prepare(source, output, name="synthetic", planes=planes, grid=grid, workers=workers)
    except OSError as error:
        raise PrepareError(
            f"{error.filename or root}: cannot be written ({error.strerror or error}); set MORPHOJAX_CACHE to a folder "
            "that can"
        ) from error
    return output


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
