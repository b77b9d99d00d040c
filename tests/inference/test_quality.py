"""Reasons to look at a row of measures.csv, each from a label that gives it and no other."""

import dataclasses

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.inference import quality
from morphojax.inference.measures import Segmented, measure_rows
from morphojax.inference.stacks import SegmentedStack, of_label, segment_stack
from tests.toy_run import toy_image, toy_label, toy_run

SPACING = (2.0, 2.0, 8.0)
LV, MYOCARDIUM, RV = (anatomy.LABEL_ID[s] for s in anatomy.PLANE_STRUCTURES["sax"])
SHAPE = (40, 36, 8)  # of which the slices 1 to 6 show the heart, 3 and 4 are the middle third


def reasons(label, run=None, **changes):
    stack = dataclasses.replace(of_label(label), **changes)
    return list(quality.of_stack(run or toy_run(), "sax", stack, SPACING))


def without(structure, slices):
    label = toy_label(SHAPE)
    part = label[..., slices]
    part[part == structure] = 0
    label[..., slices] = part
    return label


def test_a_heart_is_good() -> None:
    assert reasons(toy_label(SHAPE)) == []
    assert quality.columns([]) == {"quality": "good", "reasons": ""}
    assert quality.columns(["one", "two"]) == {"quality": "look", "reasons": "one; two"}


@pytest.mark.parametrize(
    ("structure", "slices", "expected"),
    [
        (RV, [3], ["no RV cavity in slice 3, between slices that show the heart"]),
        (LV, [2, 3], ["no LV cavity in slices 2, 3, between slices that show the heart"]),
        (RV, [4, 5, 6], ["no RV cavity in slice 4, between slices that show the heart"]),  # in the middle third
        (RV, [5, 6], []),  # the RV may end before the apex
        (LV, [6], []),
        (MYOCARDIUM, range(8), ["no LV myocardium"]),
    ],
)
def test_missing_structures(structure, slices, expected) -> None:
    label = without(structure, list(slices))
    assert reasons(label, islands={}) == expected


def test_the_middle_is_that_of_the_lv() -> None:
    label = toy_label(SHAPE)
    label[..., 7][label[..., 1] == RV] = RV  # the RV alone, in a slice beyond the LV
    assert reasons(label) == []


@pytest.mark.parametrize(("removed", "end"), [(True, "removed"), (False, "kept")])
def test_islands(removed: bool, end: str) -> None:
    few, many = toy_label(SHAPE), toy_label(SHAPE)
    few[32:, :5, 2], many[32:, :10, 2] = RV, RV  # 40 and 80 voxels beside 384
    assert of_label(few).islands["rv_cavity"] < 0.1 < of_label(many).islands["rv_cavity"]
    assert reasons(few, removed=removed) == []
    percent = 100 * 80 / (many == RV).sum()
    assert reasons(many, removed=removed) == [f"{percent:.0f} % of the RV cavity outside its largest piece, {end}"]


@pytest.mark.parametrize(
    ("low", "high", "subjects", "expected"),
    [
        (35, 200, 8, "LV cavity of 20.9 mL, 35 to 200 in training"),
        (1, 13, 8, "LV cavity of 20.9 mL, 1 to 13 in training"),
        (30, 200, 8, None),  # within a factor of 1.5
        (1, 15, 8, None),
        (100, 200, 7, None),  # too few subjects for a range
    ],
)
def test_sizes_beyond_those_of_training(low, high, subjects, expected) -> None:
    sizes = {"sax": {"lv_cavity": {"min": low, "max": high, "subjects": subjects}}}
    assert reasons(toy_label(SHAPE), dataclasses.replace(toy_run(), sizes=sizes)) == ([expected] if expected else [])
    assert reasons(toy_label(SHAPE), dataclasses.replace(toy_run(), sizes=None)) == []


def test_a_long_axis_is_judged_by_area() -> None:
    structures = ("la_cavity", "ra_cavity")
    label = toy_label((40, 36, 1), structures=structures)
    sizes = {"la_4ch": {"ra_cavity": {"min": 100.0, "max": 200.0, "subjects": 8}}}
    run = dataclasses.replace(toy_run("la_4ch", structures), sizes=sizes)
    area = 4 * (label == anatomy.LABEL_ID["ra_cavity"]).sum() / 100
    stack = SegmentedStack(label, {})
    found = list(quality.of_stack(run, "la_4ch", stack, SPACING))
    assert found == [f"RA cavity of {area:.3g} cm2, 100 to 200 in training"]


def test_a_short_axis_that_is_not_deep_enough() -> None:
    label = toy_label(SHAPE)[..., 2:5]  # of 24 mm
    assert reasons(label) == ["a stack of 24 mm: sizes of a part of the heart"]
    assert reasons(toy_label(SHAPE)[..., 2:6]) == []


def test_a_black_image() -> None:
    assert reasons(toy_label(SHAPE), black=True) == ["a black image"]


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        ({"lv_sv_ml": 70.0, "lv_ef_percent": 60.0, "rv_sv_ml": 0.0, "rv_ef_percent": 0.0}, []),
        (
            {"rv_sv_ml": -12.0, "rv_ef_percent": -8.0},
            ["RV larger at ES than at ED: stroke volume -12 mL, ejection fraction -8 %"],
        ),
        ({"lv_sv_ml": np.nan, "lv_ef_percent": np.nan}, []),
        ({"la_volume_ed_ml": 80.0, "la_volume_es_ml": 60.0}, ["LA larger at ED (80 mL) than at ES (60 mL)"]),
        ({"ra_volume_ed_ml": 60.0, "ra_volume_es_ml": 80.0}, []),
    ],
)
def test_impossible_measures(measures, expected) -> None:
    assert list(quality.of_measures(measures)) == expected


def frames(*labels, names=("p_ED", "p_ES")):
    return [Segmented(n, (of_label(x),), SPACING, np.nan) for n, x in zip(names, labels, strict=True)]


def test_rows_say_at_which_phase() -> None:
    small, large = toy_label(SHAPE, radius=5), toy_label(SHAPE, radius=8)
    (row,) = measure_rows(toy_run(), "sax", frames(large, small))
    assert (row["quality"], row["reasons"]) == ("good", "")
    (row,) = measure_rows(toy_run(), "sax", frames(small, without(RV, [3])))
    assert row["quality"] == "look"
    assert row["reasons"].startswith("LV larger at ES than at ED: stroke volume -")
    assert "; ES: no RV cavity in slice 3, between slices that show the heart; ES: 4" in row["reasons"]
    cine = Segmented("c", tuple(map(of_label, (large, without(RV, [3]), small))), SPACING, np.nan)
    (row,) = measure_rows(toy_run(), "sax", [cine])
    assert (row["ed"], row["es"], row["quality"]) == (0, 2, "good"), "frames between ED and ES are not judged"


def test_summary() -> None:
    rows = [quality.columns(r) for r in ([], ["one"], [])]
    assert quality.summary(toy_run(), "sax", rows[:1]) == []
    assert quality.summary(toy_run(), "sax", rows) == [
        "1 of 3 rows of measures.csv need a look: see its column reasons"
    ]
    old = dataclasses.replace(toy_run(), sizes=None)
    assert quality.summary(old, "sax", []) == []
    assert quality.summary(old, "sax", rows[:1]) == [
        "sizes are not compared with those of training: the run is of an older version, without sizes.json"
    ]
    seen = {"min": 1.0, "max": 2.0, "subjects": 8}
    few = {"sax": {"lv_cavity": seen, "rv_cavity": seen | {"subjects": 7}}}
    assert quality.summary(dataclasses.replace(toy_run(), sizes=few), "sax", rows[:1]) == [
        "sizes of LV myocardium, RV cavity are not compared with those of training: of fewer than 8 subjects"
    ]


def test_pieces_are_counted_before_they_are_removed() -> None:
    """The same image, segmented with and without the largest component alone."""
    label = toy_label(SHAPE)
    label[32:, :10, 2] = RV
    image, affine = toy_image(label), np.diag([-2.0, -2.0, 8.0, 1.0])
    for removed in (True, False):
        run = dataclasses.replace(toy_run(), largest_component=removed)
        stack = segment_stack(run, "sax", image, affine)
        assert stack.removed == removed and (stack.label[32:, :10, 2] == RV).any() != removed
        assert stack.islands == of_label(label).islands
