"""Figures of a report, as SVG text. They are told apart without colour.

A panel is as wide as a phone; a page sets several in a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter

from morphojax import anatomy
from morphojax.evaluation.figures import agreement_panel
from morphojax.reports.svg import line_style, to_svg

WIDTH = 3.5  # of a panel, in inches
_MARKS = 8  # of a line
_OUTLINES = (("reference", "white", "solid"), ("prediction", "#e69f00", (0, (2.5, 1.5))))
_EDGE = [withStroke(linewidth=2.4, foreground="black")]  # of an outline, for bright images


def curves(lines: Mapping[str, Sequence[tuple[int, float]]], label: str, logarithmic: bool = False) -> str:
    """A panel of values over the steps of a training. lines: name -> (step, value).

    A name without points keeps its style for other panels, and is not drawn.
    """
    figure = _new(WIDTH, 2.6 + 0.17 * sum(map(bool, lines.values())))
    axis = figure.subplots()
    for number, (name, points) in enumerate(lines.items()):
        if not points:
            continue
        marked = max(1, len(points) // _MARKS)
        x, y = zip(*points, strict=True)
        axis.plot(x, y, **line_style(number), markersize=4, linewidth=1.2, markevery=marked, label=name)
    axis.set_xlabel("steps", fontsize=8)
    axis.set_ylabel(label, fontsize=8)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.tick_params(labelsize=7, which="both")
    axis.grid(alpha=0.3)
    if logarithmic:
        axis.set_yscale("log")
    figure.legend(loc="outside lower left", fontsize=7, frameon=False)
    return to_svg(figure)


def agreement(title: str, reference: np.ndarray, predicted: np.ndarray) -> str:
    """A Bland-Altman plot, see `agreement_panel`."""
    figure = _new(WIDTH, 3.0)
    agreement_panel(figure.subplots(), title, reference, predicted)
    return to_svg(figure)


def case(picture: np.ndarray, title: str) -> str:
    """A slice alone, and with its outlines. picture: uint8 [3, h, w], as of `inference.cases`."""
    figure = _new(WIDTH, 2.6)
    figure.set_layout_engine("compressed")
    alone, outlined = figure.subplots(1, 2)
    alone.set_axis_off()
    alone.imshow(picture[0], cmap="gray", interpolation="none")
    _outline(outlined, picture)
    figure.suptitle(title, fontsize=8)
    _legend(figure)
    return to_svg(figure)


def contours(tiles: Sequence[tuple[np.ndarray, str]]) -> str:
    """Three slices with the outlines of the reference (solid) and the prediction (dashed).

    tiles: (uint8 [3, h, w] of image, reference and prediction, title), as of `inference.cases`.
    """
    figure = _new(7.5, 3.5)
    figure.set_layout_engine("compressed")
    axes = figure.subplots(1, 3)
    for axis in axes:
        axis.set_axis_off()
    for axis, (picture, title) in zip(axes, tiles, strict=False):
        _outline(axis, picture)
        axis.set_title(title, fontsize=8)
    _legend(figure)
    return to_svg(figure)


def areas(label: np.ndarray) -> Iterator[np.ndarray]:
    """The areas [h, w] of a label that have an outline of their own. That of the myocardium
    includes the cavity: two outlines on one line would hide the dashes.
    """
    for name, number in anatomy.LABEL_ID.items():
        if (label == number).any():
            inside = (anatomy.LABEL_ID["lv_cavity"], number) if name == "lv_myocardium" else (number,)
            yield np.isin(label, inside).astype(float)


def _outline(axis: Any, picture: np.ndarray) -> None:
    image, *labels = picture
    axis.set_axis_off()
    axis.imshow(image, cmap="gray", interpolation="none")
    for label, (_, colour, style) in zip(labels, _OUTLINES, strict=True):
        for mask in areas(label):
            drawn = axis.contour(mask, [0.6], colors=colour, linewidths=1.3, linestyles=[style])
            drawn.set_path_effects(_EDGE)


def _legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=c, linestyle=s, label=name, path_effects=_EDGE) for name, c, s in _OUTLINES]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _new(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure
