"""What `morphojax dynamics` does, by its flags."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis.dynamics import curves, figures, logs, members, tables
from analysis.dynamics.images import COUNTED
from analysis.dynamics.logs import DynamicsError
from morphojax.commands.output import writable
from morphojax.data.store.records import write_atomically
from morphojax.exit_codes import COMPLETE


def run(options: argparse.Namespace) -> int:
    writable(options.output)
    dice = tables.thresholds(options.dice) if options.dice else tables.DICE
    log = _read(options)
    if options.dice and "segment" not in set(log["task"]):
        raise DynamicsError("--dice: the runs are no segmentations; leave the flag out, or give segmentations")
    for task in log["task"].unique():
        folder = options.output / task if options.study else options.output
        folder.mkdir(parents=True, exist_ok=True)
        print("\n".join(write(log, task, folder, options.x, dice)))
    return COMPLETE


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
