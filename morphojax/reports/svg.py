"""Figures as SVG text, and lines that are told apart without colour."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

MARKERS = "osD^vPX*<>hp"
STYLES = ("-", "--", ":", "-.")
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito 2008


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line of this number. 48 lines differ in marker or dashes, so
    that they differ in grey too.
    """
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": STYLES[(number + number // len(MARKERS)) % len(STYLES)],
    }


def to_svg(figure: Figure) -> str:
    """Without header, date or random ids, so that equal results give equal files."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "morphojax", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue().decode()
    return text[text.index("<svg") :]
