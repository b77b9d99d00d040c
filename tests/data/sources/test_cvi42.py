from pathlib import Path

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.data.sources import CohortError
from morphojax.data.sources.contours import rasterise
from morphojax.data.sources.cvi42 import STRUCTURES, read_contours
from tests.data.cvi42_files import drawn, workspace


def write(tmp_path, text: str | bytes) -> Path:
    path = tmp_path / "heart.cvi42wsx"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TRIANGLE = [(2, 2), (9, 2), (2, 9)]
POINTS = np.random.default_rng(0).uniform(0, 40, (200, 2))


def test_points_are_divided_by_the_resolution_and_names_give_structures(tmp_path):
    drawings = {
        "1.2.3": drawn("saendocardialContour", TRIANGLE) + drawn("saepicardialContour", POINTS, 1),
        "1.2.4": drawn("sacardialRefPoint", [(1, 1)], "text"),  # an unused name: any content is accepted
        "1.2.5": "",
    }
    contours = read_contours(write(tmp_path, workspace(drawings)))
    assert set(contours) == {"1.2.3", "1.2.4"}
    first, second = contours["1.2.3"]
    assert (first.name, first.structure, second.structure) == ("saendocardialContour", "lv_cavity", "lv_myocardium")
    np.testing.assert_array_equal(first.points, TRIANGLE)
    np.testing.assert_array_equal(second.points, POINTS)
    assert set(STRUCTURES.values()) == set(anatomy.STRUCTURES)
    assert rasterise(contours["1.2.4"], (8, 8)).sum() == 0


EIGHT = [(5, 5), (25, 25), (25, 5), (5, 25)]
NAN, HUGE = "<Point:x>nan</Point:x>", f"<Point:x>{'1' * 100}</Point:x>"
GOOD = workspace({"1.2.3": drawn("saendocardialContour", TRIANGLE)})
BOMB = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><r Hash:key="ImageStates">&b;</r>'
BAD = {
    "truncated": (GOOD[:-200], "cannot be read as XML"),
    "empty": ("", "cannot be read as XML"),
    "another file": ("<a><b/></a>", "contains no ImageStates"),
    "an entity bomb": (BOMB, "line 1: defines a document type"),
    "a file from outside": (BOMB.replace('"ha"', 'SYSTEM "file:///etc/hostname"'), "defines a document type"),
    "an undefined entity": (GOOD.replace("<Point:x>8.0", "<Point:x>&a;"), "cannot be read as XML"),
    "an unknown encoding": (GOOD.replace("UTF-8", "klingon"), "cannot be read as XML"),
    "two points": (workspace({"1": drawn("laraContour", TRIANGLE[:2])}), "laraContour has 2 points"),
    "no points": (workspace({"1": drawn("laraContour", np.zeros((0, 2)))}), "laraContour has 0 points"),
    "text": (GOOD.replace("<Point:x>8.0", "<Point:x>left"), "x of saendocardialContour is 'left', not a number"),
    "not a number": (GOOD.replace("<Point:x>8.0</Point:x>", NAN, 1), "is 'nan', not a number"),
    "too long": (GOOD.replace("<Point:x>8.0</Point:x>", HUGE, 1), "more than 64 characters"),
    "no x": (GOOD.replace("<Point:x>8.0</Point:x>", "", 1), "lacks x or y"),
    "x twice": (GOOD.replace("<Point:y>8.0</Point:y>", "<Point:x>8.0</Point:x>", 1), "a point has two x"),
    "resolution 0": (
        workspace({"1": drawn("laraContour", TRIANGLE, 0)}),
        "SubpixelResolution of laraContour is 0.0, must",
    ),
    "negative": (workspace({"1": drawn("laraContour", TRIANGLE, -4)}), "must be above 0"),
    "tiny": (workspace({"1": drawn("laraContour", TRIANGLE, "5e-324")}), "is infinite"),
    "resolution in words": (
        workspace({"1": drawn("laraContour", TRIANGLE, "four")}),
        "resolution of laraContour is 'four'",
    ),
    "no resolution": (GOOD.replace("SubpixelResolution", "Resolution"), "is None, must be above 0"),
    "drawn twice": (
        workspace({"1": drawn("laraContour", TRIANGLE) + drawn("laraContour", EIGHT)}),
        "two different contours laraContour",
    ),
    "too many points": (
        workspace({"1": drawn("laraContour", np.zeros((10_001, 2)))}),
        "laraContour has more than 10000 points",
    ),
    "no key": (GOOD.replace('Hash:key="1.2.3"', ""), "an item of states has no key"),
    "too deep": ("<a>" * 300 + "</a>" * 300, "more than 256 deep"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_or_hostile_workspaces_are_refused(case, tmp_path):
    text, message = BAD[case]
    with pytest.raises(CohortError, match=message) as error:
        read_contours(write(tmp_path, text))
    assert "heart.cvi42wsx" in str(error.value)


def test_an_absent_file_is_named_in_the_error(tmp_path):
    with pytest.raises(CohortError, match=r"nothing.cvi42wsx: cannot be read"):
        read_contours(tmp_path / "nothing.cvi42wsx")
