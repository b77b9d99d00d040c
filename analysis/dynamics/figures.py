"""Figures of dynamics, as SVG text."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from analysis.dynamics.curves import image_to_mask
from morphojax.reports.svg import line_style, to_svg

COLUMNS = 4  # of panels, where there are no rows of their own
_MARKS = 8  # of a line
Lines = Mapping[str, int]  # line -> the number of its style


def curves(rows: pd.DataFrame, lines: Lines, label: str, x_label: str, logarithmic: bool = False) -> str:
    """A panel per name, all on one scale; a line per value of `line`, the mean over its runs, in a
    band from the smallest to the largest. rows: of `curves.over_runs`. Other values of `panel` are
    another row of panels.
    """
    canvas, panels = _grid(rows)
    for axes, points in panels:
        for line, number in lines.items():
            curve = points[points["line"] == line]
            if curve.empty:
                continue
            style = line_style(number)
            marked = max(1, len(curve) // _MARKS)
            axes.plot(curve["x"], curve["mean"], **style, markersize=4, linewidth=1.2, markevery=marked)
            if (curve["runs"] > 1).any():
                axes.fill_between(
                    curve["x"], curve["low"], curve["high"], color=style["color"], alpha=0.15, linewidth=0
                )
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=5)
        if logarithmic:
            axes.set_yscale("log")
    return _finish(canvas, _drawn(lines, rows), x_label, label)


def sphere(rows: pd.DataFrame, lines: Lines, source: str) -> str:
    """Alignment against uniformity (Wang and Isola 2020), a panel per objective; an open circle
    where a line begins, arrows in the direction of time. rows: of `curves.sphere`.
    """
    canvas, panels = _grid(rows)
    for axes, points in panels:
        for line, number in lines.items():
            path = points[points["line"] == line].sort_values("step")[["uniformity", "alignment"]].to_numpy(float)
            if len(path):
                _path(axes, path, line_style(number))
        axes.grid(alpha=0.3)
    x_label = f"uniformity of the images, {source} (lower: more even)"
    return _finish(canvas, _drawn(lines, rows), x_label, f"alignment, {source} (lower: pairs are closer)", begin=True)


def _path(axes: Any, path: np.ndarray, style: dict[str, Any]) -> None:
    """path: [n,2] in the order of time."""
    colour, marker = style["color"], style["marker"]
    axes.plot(*path.T, color=colour, linestyle=style["linestyle"], linewidth=1.2)
    axes.plot(*path[0], marker="o", color=colour, markersize=7, markerfacecolor="none", linestyle="")
    axes.plot(*path[-1], marker=marker, color=colour, markersize=6, linestyle="")
    reach = max(1, len(path) // 8)  # noise must not turn an arrow
    for at in sorted({len(path) * part // 4 for part in (1, 2, 3)}):
        direction = path[min(at + reach, len(path) - 1)] - path[max(at - reach, 0)]
        head = {"arrowstyle": "-|>", "color": colour, "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
        if direction.any():
            axes.annotate("", xy=path[at] + direction * 1e-3, xytext=path[at], arrowprops=head)


def _grid(rows: pd.DataFrame) -> tuple[Figure, list[tuple[Any, pd.DataFrame]]]:
    """A figure, and its axes with their rows: a panel per `panel` and `name`. Where one of the two
    has a single value the other fills COLUMNS columns; else each `panel` is a row.
    """
    names, panels = sorted(set(rows["name"]), key=image_to_mask), list(dict.fromkeys(rows["panel"]))
    cells = [(panel, name) for panel in panels for name in names]
    columns = len(names) if len(panels) > 1 and len(names) > 1 else min(COLUMNS, len(cells))
    height = -(-len(cells) // columns)
    canvas = Figure(figsize=(max(2.6 * columns + 0.6, 5.2), 2.4 * height + 1.0), layout="constrained")
    FigureCanvasSVG(canvas)
    found = []
    all_axes = canvas.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (panel, name) in zip(all_axes, cells, strict=False):
        titles = [panel] if len(panels) > 1 else []
        titles += [name] if len(names) > 1 or not titles else []
        axes.set_title("\n".join(titles), fontsize=9)
        axes.tick_params(labelsize=8)
        found.append((axes, rows[(rows["panel"] == panel) & (rows["name"] == name)]))
    for axes in all_axes[len(cells) :]:
        axes.set_visible(False)
    for axes in all_axes[max(0, len(cells) - columns) : len(cells)]:
        axes.tick_params(labelbottom=True)  # above an empty place too
    return canvas, found


def lines_of(log: pd.DataFrame) -> dict[str, int]:
    """The lines of all runs, so that an arm has one style in every figure."""
    return {line: number for number, line in enumerate(dict.fromkeys(log["line"]))}


def _drawn(lines: Lines, rows: pd.DataFrame) -> Lines:
    return {line: number for line, number in lines.items() if line in set(rows["line"])}


def _finish(canvas: Figure, lines: Lines, x_label: str, y_label: str, begin: bool = False) -> str:
    """Labels, and the legend above the panels. begin: it explains the open circle."""
    characters = [int(inches * 12) for inches in (canvas.get_figwidth(), canvas.get_figheight() - 1)]  # of a line
    canvas.supxlabel(textwrap.fill(x_label, characters[0]), fontsize=9)
    canvas.supylabel(textwrap.fill(y_label, characters[1]), fontsize=9)
    handles = [Line2D([], [], **line_style(n), markersize=5, linewidth=1.2, label=line) for line, n in lines.items()]
    if begin:
        handles.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="none", linestyle="", label="begin"))
    columns = max(1, min(len(handles), int(canvas.get_figwidth() * 8 / max(len(line) + 5 for line in lines))))
    canvas.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=8)
    return to_svg(canvas)
