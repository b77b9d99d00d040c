from pathlib import Path

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.data.geometry import Grid
from morphojax.data.prepare.embedded import ensure_synthetic
from morphojax.data.sources import CohortError
from morphojax.data.sources.contours import fill, labels_for, rasterise, unplaced
from morphojax.data.sources.cvi42 import Contour
from morphojax.data.store.dataset import Dataset
from tests.data.cvi42_files import NAME, covered, outlines


def ellipse(centre=(20.3, 18.6), radii=(9.0, 7.0), count=200, start=0.0, stop=2 * np.pi) -> np.ndarray:
    angle = np.linspace(start, stop, count, endpoint=False)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], axis=1)


def shoelace(points) -> float:
    x, y = np.asarray(points, float).T
    return float(abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2)


def dice(a, b) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_a_whole_number_is_the_centre_of_a_pixel_and_x_is_the_column():
    corner = Contour(NAME["lv_cavity"], np.array([(1.6, 0.6), (3.4, 0.6), (3.4, 1.4), (1.6, 1.4)]))
    assert np.argwhere(rasterise([corner], (5, 7))).tolist() == [[1, 2], [1, 3]]
    # The outline runs through pixel centres: its left and top pixels are inside, its right and
    # bottom ones are not. The contour covers only a quarter of the corner pixel.
    square = Contour(NAME["lv_cavity"], np.array([(2.0, 1.0), (6, 1), (6, 4), (2, 4)]))
    expected = np.zeros((6, 9), bool)
    expected[1:4, 2:6] = True
    expected[1, 2] = False
    np.testing.assert_array_equal(fill(square, (6, 9))[0], expected)
    np.testing.assert_array_equal(fill(Contour("", square.points[::-1]), (6, 9))[0], expected)


@pytest.mark.parametrize(("radii", "tolerance"), [((24, 24), 0.01), ((31, 17), 0.01), ((9, 7), 0.02), ((2.5, 2), 0.12)])
def test_areas_are_those_of_the_polygons(radii, tolerance):
    """Averaged over positions of the centre within a pixel, so that no single one decides."""
    rng, areas = np.random.default_rng(0), []
    for centre in rng.uniform(35, 36, (40, 2)):
        points = ellipse(centre, radii)
        mask, crossing = fill(Contour("", points), (70, 72))
        assert crossing == 0
        areas.append(mask.sum() / shoelace(points))
    assert abs(np.mean(areas) - 1) < tolerance / 4 and np.std(areas) < tolerance


def test_random_polygons_agree_with_the_shoelace_formula_and_a_test_of_every_sample():
    rng = np.random.default_rng(1)
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = rng.uniform(12, 24, 12)
        points = np.stack([30 + radius * np.cos(angle), 28 + radius * np.sin(angle)], axis=1)
        mask, _ = fill(Contour("", points), (60, 64))
        edges = np.hypot(*(np.roll(points, -1, axis=0) - points).T).sum()
        assert abs(mask.sum() - shoelace(points)) < 0.1 * edges
        # The crossing-number definition, sample by sample.
        fine = (np.arange(5) - 2) / 5
        y, x = np.meshgrid(
            (np.arange(60)[:, None] + fine).ravel(), (np.arange(64)[:, None] + fine).ravel(), indexing="ij"
        )
        inside = np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            crosses = (min(y0, y1) <= y) & (y < max(y0, y1))
            inside ^= crosses & (x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        assert abs(inside.sum() / 25 - shoelace(points)) < 0.02 * edges
        np.testing.assert_array_equal(mask, inside.reshape(60, 5, 64, 5).mean(axis=(1, 3)) > 0.5)


def test_the_cavity_is_not_part_of_the_myocardium():
    y, x = np.mgrid[:80, :90]
    shapes = {"rv_cavity": ((30.2, 40.1), 15), "lv_myocardium": ((45.7, 38.4), 20), "lv_cavity": ((46.1, 38.0), 13)}
    expected = np.zeros((80, 90), np.uint8)
    for structure, (centre, radius) in shapes.items():
        expected[np.hypot(x - centre[0], y - centre[1]) < radius] = anatomy.LABEL_ID[structure]
    contours = [Contour(NAME[s], ellipse(c, (r, r), 400)) for s, (c, r) in reversed(shapes.items())]
    label = rasterise(contours, (80, 90))
    for structure in shapes:
        mask, truth = (a == anatomy.LABEL_ID[structure] for a in (label, expected))
        assert dice(mask, truth) > 0.99 and abs(mask.sum() / truth.sum() - 1) < 0.01
    only = rasterise(contours, (80, 90), ("lv_myocardium",))
    np.testing.assert_array_equal(only, np.where(label == anatomy.LABEL_ID["lv_myocardium"], label, 0))


def test_the_labels_of_the_synthetic_cohort_are_recovered_from_their_outlines(tmp_path):
    dataset = Dataset.open(ensure_synthetic(tmp_path, 2, 0, Grid(1.5, 16), ("sax", "la_4ch"), workers=1))
    sums = np.zeros((2, 1 + len(anatomy.STRUCTURES)), int)
    for plane in ("sax", "la_4ch"):
        for row in range(len(dataset.stacks(plane))):
            native, _ = dataset.native(plane, row)
            for z in range(0 if native is None else native.shape[2]):
                label = native[:, :, z].T
                recovered, masks = np.zeros_like(label), covered(label)
                for structure in ("rv_cavity", "lv_myocardium", "lv_cavity", "la_cavity", "ra_cavity"):
                    around = outlines(masks[structure])
                    part = rasterise([Contour(NAME[structure], o) for o in around], label.shape)
                    recovered[part > 0] = anatomy.LABEL_ID[structure]
                for i in np.unique(label[label > 0]):
                    a, b = label == i, recovered == i
                    sums[0, i] += np.count_nonzero(a & b)
                    sums[1, i] += np.count_nonzero(a) + np.count_nonzero(b)
                    assert a.sum() < 50 or (dice(a, b) > 0.99 and abs(b.sum() / a.sum() - 1) < 0.01)
    assert (sums[1, 1:] > 1000).all() and (2 * sums[0, 1:] / sums[1, 1:] > 0.99).all()


def test_an_open_contour_is_closed_by_a_straight_line():
    half = ellipse((20, 19.5), (10, 10), 100, 0, np.pi)
    mask, _ = fill(Contour("saendocardialOpenContour", half), (40, 40))
    assert abs(mask.sum() / (np.pi * 50) - 1) < 0.05 and not mask[:20].any() and mask[20, 11:29].all() and mask[25, 20]
    label = rasterise(
        [Contour("saendocardialOpenContour", half), Contour("saepicardialOpenContour", ellipse())], (40, 40)
    )
    assert label[25, 20] == anatomy.LABEL_ID["lv_cavity"] and label[14, 20] == anatomy.LABEL_ID["lv_myocardium"]


EIGHT = [(5, 5), (25, 25), (25, 5), (5, 25)]
TWICE = [*ellipse(), *ellipse(radii=(6, 5))]


@pytest.mark.parametrize("points", [EIGHT, TWICE], ids=["figure of eight", "wound twice"])
def test_a_contour_that_crosses_itself_is_refused(points):
    with pytest.raises(CohortError, match="saendocardialContour crosses itself"):
        rasterise([Contour("saendocardialContour", np.array(points, float))], (40, 40))


def test_a_small_loop_of_the_pen_is_a_warning():
    points = ellipse(count=40)
    at, loop = points[0], [[0.1, 1.0], [0.9, 1.0], [0.9, 0.3], [-0.6, 0.3], [-0.6, 0.9]]
    looped = np.concatenate([points[:1], at + np.array(loop), points[1:]])
    mask, crossing = fill(Contour("saendocardialContour", looped), (40, 40))
    assert 0 < crossing <= 1 and np.count_nonzero(mask ^ fill(Contour("", points), (40, 40))[0]) <= 1
    labels = labels_for(Path("w"), [["u"]], {"u": (Contour("saendocardialContour", looped),)}, (40, 40))
    assert labels.warnings == ("contours that cross themselves by less than a pixel or 1 %",)


def test_a_contour_far_outside_its_image_is_refused_and_one_at_the_edge_is_cut():
    with pytest.raises(CohortError, match="leaves its image of 20 columns and 40 rows"):
        rasterise([Contour("saendocardialContour", ellipse())], (40, 20))
    mask, _ = fill(Contour("", np.array([(-1.4, 2.0), (4, 2), (4, 6), (-1.4, 6)])), (9, 9))
    assert mask.sum() == 16 and mask[2:6, :4].all()
    assert not fill(Contour("", np.array([(-1.4, 2.0), (-0.8, 2), (-0.8, 6)])), (9, 9))[0].any()


def _contours(*names: str) -> tuple[Contour, ...]:
    radius = {"rv_cavity": 5, "lv_myocardium": 9, "lv_cavity": 6}
    return tuple(Contour(NAME[n], ellipse((33 if n == "rv_cavity" else 20, 12), (radius[n],) * 2)) for n in names)


UIDS = [[f"{z}.{t}" for t in range(4)] for z in range(3)]


def test_labels_of_a_series_have_the_axes_of_the_sources():
    heart = ("lv_cavity", "lv_myocardium")
    contours = {"1.0": _contours(*heart), "2.0": _contours("lv_myocardium"), "1.3": _contours(*heart)}
    labels = labels_for(Path("w"), UIDS, contours, (30, 40))
    first, second, third, fourth = labels.frames
    assert second is third is None and first is not None and fourth is not None and labels.warnings == ()
    assert first.shape == (40, 30, 3) and first.dtype == np.uint8 and labels.labelled == heart
    assert first[20, 12].tolist() == [0, 1, 2] and fourth[20, 12].tolist() == [0, 1, 0] and first[12, 20, 1] == 0
    empty = labels_for(Path("w"), UIDS, {}, (30, 40))
    assert empty.frames == (None,) * 4 and empty.labelled == () and empty.warnings == ()


def test_an_undrawn_structure_does_not_become_background():
    all_structures, some_structures = ("rv_cavity", "lv_cavity", "lv_myocardium"), ("rv_cavity", "lv_cavity")
    # ES without epicardium: the myocardium counts as not annotated in any frame.
    labels = labels_for(
        Path("w"), UIDS, {"0.0": _contours(*all_structures), "0.2": _contours(*some_structures)}, (30, 40)
    )
    assert labels.labelled == ("lv_cavity", "rv_cavity") and labels.frames[2] is not None
    assert set(np.unique(labels.frames[0])) == {0, 1, 3} and "in some frames only" in labels.warnings[0]
    # A single contour in a frame: that frame counts as not annotated.
    contours = {"0.0": _contours(*all_structures), "0.2": _contours(*all_structures), "1.3": _contours("lv_cavity")}
    labels = labels_for(Path("w"), UIDS, contours, (30, 40))
    assert len(labels.labelled) == 3 and labels.frames[3] is None and len(labels.warnings) == 1
    sax = labels_for(Path("w"), UIDS, {"0.0": (Contour("lalaContour", ellipse()),)}, (30, 40), ("lv_cavity",))
    assert sax.frames == (None,) * 4


def test_errors_name_the_file_slice_and_frame():
    bad = {"2.1": (Contour("saendocardialContour", np.array(EIGHT, float)),)}
    with pytest.raises(CohortError, match=r"heart.cvi42wsx: slice 2, frame 1 \(from 0\): .* crosses itself"):
        labels_for(Path("heart.cvi42wsx"), UIDS, bad, (40, 40))
    with pytest.raises(CohortError, match=r"heart.cvi42wsx: frame 1 .* an epicardium but no endocardium"):
        labels_for(Path("heart.cvi42wsx"), UIDS, {"2.1": _contours("lv_myocardium")}, (40, 40))


def test_contours_of_unread_images_give_a_warning():
    contours = {"1.0": _contours("lv_cavity"), "9.9": (Contour("other", np.zeros((0, 2))),)}
    assert unplaced(contours, ["1.0", "1.1"], ("sa",)) == ()
    assert unplaced(contours, ["1.1"], ("sa", "la")) == ("contours of images that are not there: not used",)
    assert unplaced(contours, ["1.1"], ("la",)) == unplaced(contours, ["1.1"], ()) == ()
