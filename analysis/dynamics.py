"""Figures of how weights and features of runs moved away from their start, and of their scores.

    python -m analysis.dynamics --runs=runs/segment_sax,runs/segment_sax_scratch --output=results

Reads the `metrics.jsonl` of every run. Writes, over steps:

    distance.png    relative distance of the weights from the start of the run, by depth
    cka.png         linear CKA of the encoder's features with those at the start, by level
    grad_norm.png   norm of the gradient by depth, mean of the logged steps
    dice.png        Dice of the validation subjects, by structure

Each depth, level or structure has a panel, each run a line. A figure that no run has logged is not
drawn, with a message.
"""

import argparse
import json
import math
import re
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# File -> (prefix of the names of its curves, label of the axis, whether the axis is logarithmic).
FIGURES = {
    "distance": ("dynamics/distance/", "distance from the start, relative", False),
    "cka": ("dynamics/cka/", "linear CKA with the start", False),
    "grad_norm": ("train/grad_norm/", "norm of the gradient", True),
    "dice": ("val/dice", "Dice of the validation subjects", False),
}
COLUMNS = 4


def read(runs: list[Path]) -> pd.DataFrame:
    """A row per run, step and name: run (folder's name), step, name, value.

    Raises SystemExit for a run without a readable log.
    """
    rows = []
    names = _names(runs)
    for run in runs:
        path = run / "metrics.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
        except (OSError, json.JSONDecodeError) as error:
            raise SystemExit(f"error: {path}: cannot be read ({error}); give the directories of runs") from error
        for line in lines:
            step = line.pop("step")
            rows += [(names[run], step, name, math.nan if value is None else value) for name, value in line.items()]
    frame = pd.DataFrame(rows, columns=["run", "step", "name", "value"])
    # A run that was killed and resumed has logged the step of its checkpoint twice.
    return frame.drop_duplicates(["run", "step", "name"], keep="last")


def curves(log: pd.DataFrame, figure: str) -> pd.DataFrame:
    """The rows of a figure, without the prefix of their names.

    Where a module has norms by depth, the norm of the whole module is left out.
    """
    prefix = FIGURES[figure][0]
    rows = log[log["name"].str.startswith(prefix)].copy()
    rows["name"] = rows["name"].str.removeprefix(prefix).str.removeprefix("/").replace("", "mean")
    with_depths = {name.split("/")[0] for name in rows["name"] if "/" in name}
    return rows[~rows["name"].isin(with_depths)]


def draw(path: Path, log: pd.DataFrame, label: str, logarithmic: bool) -> None:
    """A panel per name, all on one scale; a line per run."""
    names, runs = sorted(set(log["name"]), key=_image_to_mask), list(dict.fromkeys(log["run"]))
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    canvas = Figure(figsize=(2.6 * columns + 0.6, 2.0 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for i, run in enumerate(runs):
            curve = log[(log["name"] == name) & (log["run"] == run)].sort_values("step")
            axes.plot(curve["step"], curve["value"], ".-", color=f"C{i}", markersize=4, linewidth=1, label=run)
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
        if logarithmic:
            axes.set_yscale("log")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    canvas.supxlabel("step", fontsize=9)
    canvas.supylabel(label, fontsize=9)
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=columns, fontsize=8)
    canvas.savefig(path, dpi=150)


def _image_to_mask(name: str) -> tuple[int, int, str]:
    """Sort key of the panels: down the encoder, then up the decoder (level 0 is the finest)."""
    number = int(match.group()) if (match := re.search(r"\d+", name)) else None
    module = name.split("/")[0]
    if module == "encoder":
        return (0, 0 if name.endswith("stem") else 1000 if number is None else number, name)
    if module == "decoder":
        return (1, 0 if number is None else -number, name)
    return (2, 1000 if number is None else number, name)


def _names(runs: list[Path]) -> dict[Path, str]:
    """Short names of the runs: the last parts of their paths, as many as make the names unique."""
    for depth in range(1, max(len(run.parts) for run in runs) + 1):
        names = {run: "/".join(run.parts[-depth:]) for run in runs}
        if len(set(names.values())) == len(runs):
            return names
    raise SystemExit("error: --runs names a run twice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, help="directories of runs, separated by commas")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")
    options = parser.parse_args()
    log = read([Path(run) for run in options.runs.split(",")])
    options.output.mkdir(parents=True, exist_ok=True)
    for figure, (prefix, label, logarithmic) in FIGURES.items():
        rows = curves(log, figure)
        if rows.empty:
            print(f"{figure}.png: not drawn, because no run has logged {prefix}")
            continue
        draw(options.output / f"{figure}.png", rows, label, logarithmic)
        print(options.output / f"{figure}.png")


if __name__ == "__main__":
    main()
