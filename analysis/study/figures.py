"""Figures of a report, as SVG text. They are told apart without colour."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis.study.scores import matrix
from analysis.study.spec import ARM
from analysis.study.tables import ALL, PRIMARY, Part, labels_text
from morphojax.reports.svg import MARKERS, STYLES, to_svg


def runs(part: Part, arms: Sequence[str]) -> str:
    """The mean Dice of every run by arm, and the mean of the arm."""
    figure, axes = _new(0.32 * len(arms) + 1.1)
    for row, arm in enumerate(arms):
        means = matrix(part.scores[part.scores[ARM] == arm], PRIMARY).mean(axis=1)
        axes.plot(means, [row] * len(means), "o", color="0.55", markersize=4, fillstyle="none")
        axes.plot([means.mean()], [row], "D", color="black", markersize=6)
    axes.set(
        yticks=range(len(arms)),
        yticklabels=arms,
        xlabel="mean Dice of the test subjects (circle: a run; diamond: their mean)",
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return to_svg(figure)


def forest(table: pd.DataFrame, label: str) -> str:
    """The difference of every contrast, with its interval; a square where the labelled sets of all
    sizes are pooled.
    """
    rows = table.dropna(subset="mean")
    figure, axes = _new(0.3 * len(rows) + 1.1)
    for y, row in enumerate(rows.to_dict("records")):
        axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=1.2)
        axes.plot([row["mean"]], [y], "s" if row["labels"] == ALL else "o", color="black", markersize=5)
    names = [f"{row['a']} - {row['b']} ({labels_text(row['labels'])})" for row in rows.to_dict("records")]
    axes.axvline(0, color="0.5", linewidth=1, linestyle="--")
    axes.set(yticks=range(len(rows)), yticklabels=names, xlabel=f"difference in {label}, 95 % interval")
    axes.invert_yaxis()
    return to_svg(figure)


def label_efficiency(table: pd.DataFrame) -> str:
    """Mean Dice of every arm by its number of labelled subjects. table: of `tables.means`."""
    figure, axes = _new(3.6)
    curves = table[table["labels"] != ALL].astype({"labels": float})
    for n, (arm, curve) in enumerate(curves.groupby("arm", sort=False)):
        curve = curve.sort_values("labels")
        style = STYLES[n % len(STYLES)] + MARKERS[n % len(MARKERS)]
        axes.plot(
            curve["labels"], curve[PRIMARY], style, color=str(0.6 * n / max(1, curves["arm"].nunique() - 1)), label=arm
        )
    counts = sorted(curves["labels"].unique())
    axes.set_xscale("log")
    axes.set_xticks(counts, labels=[f"{count:g}" for count in counts], minor=False)
    axes.minorticks_off()
    axes.set(xlabel="labelled subjects", ylabel="mean Dice")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return to_svg(figure)


def _new(height: float, columns: int = 1):
    figure = Figure(figsize=(7.5, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(1, columns)
