"""Reports what a cohort or a dataset holds."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from morphojax import anatomy
from morphojax.commands.output import writable
from morphojax.commands.source import make_source
from morphojax.data.inspection import survey, suspicions
from morphojax.data.inspection.survey import STACK_COLUMNS, Findings
from morphojax.data.inspection.suspicions import Suspicion
from morphojax.data.sources import CohortError
from morphojax.data.store.dataset import MANIFEST, Dataset, DatasetError
from morphojax.data.store.records import write_atomically
from morphojax.evaluation import figures
from morphojax.exit_codes import COMPLETE, REFUSED

_SHOWN = 12  # indices per line


def run(args: argparse.Namespace) -> int:
    if args.output is not None:
        writable(args.output)
    try:
        findings, dataset = _find(args)
    except CohortError as error:
        without_reason = f"{args.dir} cannot be read as a cohort; --ids says why (the reason may name a subject)"
        print(f"error: {error if args.ids or not args.dir.is_dir() else without_reason}", file=sys.stderr)
        return REFUSED
    suspicious = suspicions.find(findings)
    print(describe(findings, suspicious))
    if args.ids:
        print(describe_ids(findings, suspicious))
    if args.output is not None:
        write(findings, suspicious, args.output)
        if dataset is not None:
            sheet = args.output / "contact_sheet.png"
            figures.contact_sheet(sheet, survey.tiles(dataset), columns=survey.SHEET_COLUMNS)
    return COMPLETE


def _find(args: argparse.Namespace) -> tuple[Findings, Dataset | None]:
    """The findings, and the dataset where a prepared one was inspected."""
    planes = anatomy.parse_planes(args.planes) if args.planes is not None else None
    if args.source is None and (args.dir / MANIFEST).is_file():
        if args.table or args.dictionary or args.table_fields:
            raise DatasetError(
                f"{args.dir} is a prepared dataset and has its table; leave out --table and --dictionary"
            )
        dataset = Dataset.open(args.dir)
        return survey.of_dataset(dataset, planes), dataset
    name = args.source or survey.recognise(args.dir)
    source = make_source(name, args.dir, "all", args)
    return survey.of_source(source, name, planes or anatomy.PLANES, args.workers), None


def describe(findings: Findings, suspicious: Sequence[Suspicion]) -> str:
    """The report: counts and indices, no subject's name."""
    stacks = findings.stacks[~findings.stacks["failed"].astype(bool)]
    lines = [f"{findings.source}: {len(findings.ids)} subjects, {len(findings.failures)} of them cannot be read"]
    for plane in findings.planes:
        of_plane = stacks[stacks["plane"] == plane]
        lines += _plane(plane, of_plane) if len(of_plane) else [f"{plane:<10}no images"]
    lines += _columns(findings.columns)
    lines += [f"{n:>6} x warning: {message}" for message, n in findings.warnings.items()]
    lines.append("suspicious" if suspicious else "nothing suspicious")
    for s in suspicious:
        indices = " ".join(f"#{i}" for i in s.subjects[:_SHOWN]) + (" ..." if len(s.subjects) > _SHOWN else "")
        lines.append(f"  {s.what}" + (f": {len(s.subjects)} subjects, {indices}" if s.subjects else ""))
    return "\n".join(lines)


def _plane(plane: str, stacks: pd.DataFrame) -> list[str]:
    first = stacks.drop_duplicates("subject")
    phases = ", ".join(f"{n} {phase}" for phase, n in stacks["phase"].value_counts(sort=False).items())
    orientations = _counts(first["orientation"])
    cine = f"; further frames of a cine {_range(first['cine_frames'])}" if first["cine_frames"].any() else ""
    lines = [
        f"{plane:<10}{len(first)} subjects: {phases}{cine}",
        f"          shape {_range(first['x'])} x {_range(first['y'])} x {_range(first['slices'])} slices, axes towards {orientations}",
        f"          in plane {_range(pd.concat([first['spacing_x_mm'], first['spacing_y_mm']]))} mm, "
        f"between slices {_range(first['slice_gap_mm'])} mm",
    ]
    origins = stacks.groupby("phase", sort=False)["phase_from"]
    known_from = [f"{phase} {_counts(origins.get_group(phase))}" for phase in stacks["phase"].unique()]
    lines += [f"          phases known from: {'; '.join(known_from)}"] if stacks["phase_from"].any() else []
    labelled = stacks[stacks["structures"] != ""]
    if labelled.empty:
        return [*lines, "          no labels"]
    empty = int((labelled["labelled_slices"] == 0).sum())
    lines.append(
        f"          {len(labelled)} of {len(stacks)} images labelled, {empty} of them empty; "
        f"in {_range(labelled['labelled_slices'])} slices"
    )
    unit = anatomy.size_unit(plane)
    for structure in anatomy.STRUCTURES:
        by_phase = [
            f"{phase} {_range(sizes)} {unit}"
            for phase, sizes in labelled.groupby("phase")[f"{structure}_{unit}"]
            if sizes.notna().any()
        ]
        lines += [f"          {structure:<14}{', '.join(by_phase)}"] if by_phase else []
    return lines


def _counts(values: pd.Series) -> str:
    return ", ".join(f"{name} {n}" for name, n in values.value_counts().items())


def _columns(columns: pd.DataFrame | None) -> list[str]:
    if columns is None:
        return ["table     none"]
    lines = [f"table     {len(columns)} columns"]
    for row in columns.to_dict("records"):
        values = (
            f"{row['min']:.4g} to {row['max']:.4g} {row['unit']}".rstrip()
            if pd.notna(row["min"])
            else f"{row['classes']} classes"
        )
        lines.append(
            f"          {row['column']}: {row['kind']}, {row['group']}; {row['missing']:.0%} missing; {row['note'] or values}"
        )
    return lines


def _range(values: pd.Series) -> str:
    low, median, high = (f"{v:.4g}" for v in (values.min(), values.median(), values.max()))
    return low if low == high else f"{low} to {high} (median {median})"


def describe_ids(findings: Findings, suspicious: Sequence[Suspicion]) -> str:
    """The ids of the indices in the report, and why a subject cannot be read."""
    shown = sorted({i for s in suspicious for i in s.subjects})
    return "\n".join(f"#{i} {findings.ids[i]} {findings.failures.get(i, '')}".rstrip() for i in shown)


def write(findings: Findings, suspicious: Sequence[Suspicion], output: Path) -> None:
    """Writes the CSV files of a report; they name no subject."""
    output.mkdir(parents=True, exist_ok=True)
    rows = [{"what": s.what, "subjects": " ".join(map(str, s.subjects))} for s in suspicious]
    files = {
        "inspect.csv": findings.stacks[list(STACK_COLUMNS)],
        "columns.csv": findings.columns if findings.columns is not None else pd.DataFrame(columns=["column"]),
        "suspicious.csv": pd.DataFrame(rows, columns=["what", "subjects"]),
    }
    for name, frame in files.items():
        write_atomically(output / name, frame.to_csv(index=False).encode())
