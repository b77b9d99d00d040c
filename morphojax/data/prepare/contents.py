"""CSV files and counts that `prepare` and `exclude` write alike."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax import anatomy
from morphojax.data.store.dataset import STACK_COLUMNS, DatasetError
from morphojax.data.store.records import write_atomically
from morphojax.data.store.splits import SPLITS

ReportLine = tuple[str, str, str]  # subject, status, message
REPORT_COLUMNS = ("subject", "status", "message")
Stacks = Sequence[Mapping[str, Any]]  # rows of stacks.csv, with `voxels` and `cut` of `measure_cut`


def write_stacks(output: Path, plane: str, stacks: Stacks) -> None:
    (output / plane).mkdir(exist_ok=True)
    pd.DataFrame(list(stacks), columns=list(STACK_COLUMNS)).to_csv(output / plane / "stacks.csv", index=False)


def write_subjects(output: Path, names: Sequence[str], splits: Sequence[str]) -> None:
    pd.DataFrame({"subject": names, "split": splits}).to_csv(output / "subjects.csv", index=False)


def write_report(output: Path, lines: Sequence[ReportLine]) -> None:
    frame = pd.DataFrame(list(lines), columns=list(REPORT_COLUMNS))
    write_atomically(output / "report.csv", frame.to_csv(index=False).encode())


def read_report(root: Path) -> pd.DataFrame:
    """The report of a dataset. Raises DatasetError where it is absent."""
    path = root / "report.csv"
    if not path.is_file():
        raise DatasetError(f"{path} not found: it is needed to count warnings and failures again; copy it back")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def count_contents(splits: Sequence[str], stacks: Mapping[str, Stacks], statuses: Iterable[str]) -> dict[str, Any]:
    """The manifest's counts, from splits by subject, stacks by plane, and statuses of the
    report.
    """
    lines = Counter(statuses)
    return {
        "subjects": {s: splits.count(s) for s in SPLITS},
        "planes": {plane: _count_stacks(rows) for plane, rows in stacks.items()},
        "failed": lines["failed"],
        "left_out": lines["left out"],
        "without_row": lines["no row"],
        "rows_without_images": lines["no images"],
    }


def _count_stacks(stacks: Stacks) -> dict[str, int]:
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


def annotated_structures(stacks: Mapping[str, Stacks]) -> tuple[dict[str, tuple[str, ...]], Counter[str]]:
    """The structures annotated in any subject, by plane; warnings where some subjects lack some."""
    annotated, warnings = {}, Counter[str]()
    for plane, rows in stacks.items():
        by_subject = {s["subject"]: set(s["structures"].split()) for s in rows if s["structures"]}
        union = set().union(*by_subject.values())
        if incomplete := sum(structures != union for structures in by_subject.values()):
            warnings[
                f"{plane}: only some of the plane's annotated structures are annotated; the others are no background"
            ] = incomplete
        annotated[plane] = tuple(s for s in anatomy.STRUCTURES if s in union)
    return annotated, warnings
