"""Pictures of scored stacks, and their file."""

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.inference import cases

LV, MYO, RV = (anatomy.LABEL_ID[s] for s in anatomy.PLANE_STRUCTURES["sax"])


def made(slices=6, size=48):
    """The LV in slices 1 to 3, the RV in slices 1 to 5; predicted two pixels further to the
    right.
    """
    label = np.zeros((slices, size, size), np.uint8)
    label[1:6, 20:24, 16:20] = RV
    label[1:4, 20:24, 22:26] = LV
    records = [{"image": np.full((size, size), 10 * z, np.uint8), "label": label[z]} for z in range(slices)]
    return records, np.roll(label, 2, axis=2)


def test_a_case_is_the_middle_slice_of_the_ventricle_cut_to_the_labels():
    records, predicted = made()
    z, picture = cases.middle(cases.stack(records, predicted, anatomy.PLANE_STRUCTURES["sax"]))
    side = 12 + 2 * cases.MARGIN  # columns 16 to 27
    assert z == 2 and picture.shape == (3, side, side)
    assert (picture[0] == 20).all()
    assert (picture[1] == LV).sum() == (picture[2] == LV).sum() == 16
    rows, columns = (np.flatnonzero((picture[1:] > 0).any((0, axis))) for axis in (2, 1))
    assert columns[0] == cases.MARGIN and side - 1 - columns[-1] == cases.MARGIN
    assert abs(rows[0] - (side - 1 - rows[-1])) <= 1


def test_only_annotated_structures_are_shown():
    records, predicted = made()
    z, picture = cases.middle(cases.stack(records, predicted, ("rv_cavity",)))
    assert z == 3 and set(np.unique(picture[1:])) == {0, RV}  # the middle of the RV
    z, picture = cases.middle(cases.stack(records, predicted, ("la_cavity",)))
    assert z == 2 and picture.shape == (3, 48, 48) and not picture[1:].any()


def test_a_prediction_at_the_edge_is_inside_the_picture():
    records, predicted = made()
    predicted[2, 0, 0] = LV
    _, picture = cases.middle(cases.stack(records, predicted, anatomy.PLANE_STRUCTURES["sax"]))
    assert picture[2, 0, 0] == LV and picture.shape == (3, 48, 48)


def test_a_file_gives_the_case_of_a_subject_in_the_first_plane(tmp_path):
    random = np.random.default_rng(0)
    written = [
        cases.Case(subject, plane, "ED", 4, random.integers(0, 255, (3, side, side), np.uint8))
        for subject, plane, side in ((7, "la_2ch", 9), (7, "sax", 12), (3, "la_2ch", 8))
    ]
    path = tmp_path / "cases_test.npz"
    path.write_bytes(cases.encode(written))
    for subject, expected in ((7, written[1]), (3, written[2])):
        found = cases.read(path, subject)
        assert found is not None and (found.plane, found.phase, found.slice) == (expected.plane, "ED", 4)
        np.testing.assert_array_equal(found.picture, expected.picture)
    named = cases.read(path, 7, "la_2ch")
    assert named is not None and named.plane == "la_2ch" and named.picture.shape == (3, 9, 9)
    assert cases.read(path, 3, "sax") is None
    assert cases.read(path, 1) is None
    path.write_bytes(cases.encode([]))
    assert cases.read(path, 7) is None


@pytest.mark.parametrize("picture", [np.zeros((2, 4, 4), np.uint8), np.zeros((3, 4, 4)), np.zeros((3, 0, 4), np.uint8)])
def test_a_picture_of_another_shape_is_refused(tmp_path, picture):
    path = tmp_path / "cases_test.npz"
    path.write_bytes(cases.encode([cases.Case(0, "sax", "ED", 0, picture)]))
    with pytest.raises(ValueError, match=r"cases_test.npz: not a file of cases \(a picture of"):
        cases.read(path, 0)
