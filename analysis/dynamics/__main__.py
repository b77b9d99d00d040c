"""Figures and tables of how runs trained: curves over images seen, and images to a given Dice.

    python -m analysis.dynamics --runs=runs/segment_sax,runs/segment_sax_scratch --output=results
    python -m analysis.dynamics --study=runs/studies/synthetic --output=results

Reads `config.json` and `metrics.jsonl` of every run. With --runs each run is a line, and all are
of one task. With --study each arm is a line: the mean over its finished runs, in a band from the
smallest to the largest value; files go to the folders `pretrain` and `segment`. Written where it
was logged:

    distance.svg        relative distance of the weights from the start of the run, by depth
    cka.svg, cka.csv    linear CKA of the encoder's features with those at the start, by level;
                        the table has the last value of each run
    dice.svg            Dice of the validation subjects, by structure
    images_to_dice.csv  images seen until the validation reached a Dice
    alignment_uniformity.svg   alignment against uniformity of a pretraining's embeddings
    effective_rank.svg, feature_rank.svg   effective rank of embeddings and of features
    grad_norm.svg       norm of the gradient by depth, mean of the logged steps
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis.dynamics import curves, figures, logs, members, tables
from analysis.dynamics.images import COUNTED
from analysis.dynamics.logs import DynamicsError
from analysis.study.errors import StudyError
from morphojax.data.store.records import write_atomically
from morphojax.inference.flags import make_parser


def parser() -> argparse.ArgumentParser:
    made = make_parser("analysis.dynamics", __doc__)
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--runs", help="directories of runs of one task, separated by commas")
    which.add_argument("--study", type=Path, help="folder of a study")
    made.add_argument("--output", type=Path, required=True, help="folder for the files")
    made.add_argument("--x", choices=curves.X, default="images", help="what curves are drawn over (default: images)")
    values = ",".join(map(str, tables.DICE))
    made.add_argument("--dice", metavar="DICE,...", help=f"Dice that validation must reach (default: {values})")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        dice = tables.thresholds(options.dice) if options.dice else tables.DICE
        log = _read(options)
        if options.dice and "segment" not in set(log["task"]):
            raise DynamicsError("--dice: the runs are no segmentations; leave the flag out, or give segmentations")
        for task in log["task"].unique():
            folder = options.output / task if options.study else options.output
            folder.mkdir(parents=True, exist_ok=True)
            print("\n".join(write(log, task, folder, options.x, dice)))
    except (DynamicsError, StudyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _read(options: argparse.Namespace) -> pd.DataFrame:
    """The logs of the runs. Raises DynamicsError."""
    wanted = curves.patterns(curves.FIGURES)
    if options.study:
        runs, unfinished = members.of_folder(options.study)
        if unfinished:
            print(f"{unfinished} runs are not finished, and left out")
        if not runs:
            raise DynamicsError(f"--study={options.study}: no run is finished; run the study first")
        return logs.read(runs, wanted)
    log = logs.read(logs.of_folders([Path(run) for run in options.runs.split(",")]), wanted)
    if len(tasks := log.groupby("task", sort=False)["run"].first()) > 1:
        found = ", ".join(f"{run} is of task {task}" for task, run in tasks.items())
        raise DynamicsError(f"--runs: {found}; their images cannot be compared, draw each task by itself")
    if log.empty:
        raise DynamicsError("--runs: the runs have logged nothing that is drawn; train them further")
    return log


def write(log: pd.DataFrame, task: str, folder: Path, x: str, dice: Sequence[float]) -> Iterator[str]:
    """Writes what the runs of one task have logged. Yields a line for each file, or why it is not
    written.
    """
    lines, log = figures.lines_of(log), log[log["task"] == task]
    x_label = "steps" if x == "steps" else COUNTED[task]
    for figure, settings in curves.FIGURES.items():
        if task not in settings.tasks:
            continue
        rows, label = curves.select(log, figure)
        points = curves.over_runs(rows, x)
        svg = "" if points.empty else figures.curves(points, lines, label, x_label, settings.logarithmic)
        yield _file(folder / f"{figure}.svg", svg, next(iter(settings.sources.values())))
    if task == "pretrain":
        points, source = curves.sphere(log)
        svg = "" if points.empty else figures.sphere(points, lines, source)
        yield _file(folder / "alignment_uniformity.svg", svg, "alignment and uniformity")
    if task == "segment":
        cka, reached = tables.last_cka(log), tables.images_to_dice(log, dice)
        yield from _table(folder / "cka.csv", cka, "linear CKA with the start")
        missing = reached.assign(
            **{name: reached[name].astype(object).fillna(tables.NOT_REACHED) for name in ("step", "images")}
        )
        yield from _table(folder / "images_to_dice.csv", missing, "Dice of the validation subjects")


def _file(path: Path, text: str, values: str) -> str:
    """Writes a file that has a content."""
    if not text:
        return f"{path.name}: not written, because no run has logged: {values}"
    write_atomically(path, text.encode())
    return f"written: {path}"


def _table(path: Path, table: pd.DataFrame, values: str) -> Iterator[str]:
    yield _file(path, "" if table.empty else table.to_csv(index=False, float_format="%.6g"), values)
    if len(table):
        yield table.to_string(index=False, float_format="%.3f")


if __name__ == "__main__":
    sys.exit(main())
