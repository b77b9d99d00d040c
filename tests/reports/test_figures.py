"""Figures of a report."""

import numpy as np

from morphojax.reports import figures


def test_the_outline_of_the_wall_is_around_the_cavity_and_not_between_them():
    label = np.zeros((9, 9), np.uint8)
    label[1:8, 1:8], label[3:6, 3:6] = 2, 1
    cavity, wall = figures.areas(label)
    assert cavity.sum() == 9 and wall.sum() == 49
    assert len(list(figures.areas(np.where(label == 2, 0, label)))) == 1  # a structure that is absent has none


def test_a_case_shows_the_image_alone_and_with_outlines():
    picture = np.zeros((3, 12, 12), np.uint8)
    picture[1, 3:9, 3:9] = picture[2, 4:10, 3:9] = 1
    svg = figures.case(picture, "best: subject 4")
    assert svg.count("data:image/png;base64,") == 2 and "best: subject 4" in svg
    assert svg.count("stroke-dasharray") == 2 * 2  # an outline and its edge, of the prediction and its legend


def test_the_lines_of_a_panel_differ_without_colour():
    svg = figures.curves({name: [(0, 1.0), (5, 0.5)] for name in ("model", "EMA weights")}, "Dice")
    assert all(f">{text}<" in svg for text in ("model", "EMA weights", "steps", "Dice"))
    assert "stroke-dasharray" in svg  # of the second line
    second = figures.curves({"absent": [], "EMA weights": [(0, 1.0), (5, 0.5)]}, "Dice")
    assert "stroke-dasharray" in second and "absent" not in second  # it keeps its style in every panel
