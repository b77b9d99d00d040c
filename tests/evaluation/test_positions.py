import os
from pathlib import Path

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.evaluation import positions

SHARED = Path(os.environ.get("MORPHOJAX_SHARED", Path(__file__).parents[3] / "shared"))
LV, MYO, RV = (anatomy.LABEL_ID[s] for s in anatomy.PLANE_STRUCTURES["sax"])
TOWARDS_APEX = np.array([-1.0, 1.0, -1.0]) / np.sqrt(3)  # left, anterior, inferior in RAS+


def stack(radii, rv=(), size=40):
    """A ventricle of these radii of the cavity in pixels (None: no ventricle), with a wall of three
    pixels; the slices `rv` have a right ventricle.
    """
    x, y = np.meshgrid(*(np.arange(size) - size // 2,) * 2, indexing="ij")
    label = np.zeros((size, size, len(radii)), np.uint8)
    for z, radius in enumerate(radii):
        if radius is not None:
            label[..., z] = np.select([np.hypot(x, y) < radius, np.hypot(x, y) < radius + 3], [LV, MYO], 0)
        if z in rv:
            label[:4, :6, z] = RV
    return label


def rows(reference, predicted, structures=anatomy.PLANE_STRUCTURES["sax"], base_first=True):
    scored = positions.score(reference, predicted, structures, base_first)
    return {(row["structure"], row["position"]): (row["dice"], row["n_slices"]) for row in scored}


def test_thirds_by_hand():
    sizes = {n: tuple(len(range(n)[part]) for part in positions.thirds(n)) for n in range(9)}
    assert sizes == {
        0: (0, 0, 0), 1: (0, 1, 0), 2: (1, 0, 1), 3: (1, 1, 1), 4: (1, 2, 1), 5: (2, 1, 2), 6: (2, 2, 2), 7: (2, 3, 2),
        8: (3, 2, 3),
    }  # fmt: skip


@pytest.mark.parametrize("n", range(40))
def test_a_slice_is_in_the_third_that_contains_its_centre(n):
    expected = [[z for z in range(n) if 2 * n * k <= 3 * (2 * z + 1) < 2 * n * (k + 1)] for k in range(3)]
    assert [list(range(n)[part]) for part in positions.thirds(n)] == expected


@pytest.mark.parametrize("radii", [(9, 8, 6, 3), (7, 9, 8, 5, 2), (9, 3), (None, 8, 8, 4, None, None)])
def test_the_base_is_the_wide_end(radii):
    label = stack(radii)
    assert positions.base_is_first([label]) is True
    assert positions.base_is_first([label[..., ::-1]]) is False
    for structure in (LV, MYO):  # either alone shows it
        assert positions.base_is_first([np.where(label == structure, label, 0)]) is True


def test_the_phases_of_a_heart_decide_together():
    clear, tie, reverse = stack((9, 7, 3)), stack((6, 6, 6)), stack((6, 6, 7))
    assert positions.base_is_first([clear, tie, reverse]) is True
    assert positions.base_is_first([clear[..., ::-1], tie, reverse]) is False


def test_a_ventricle_of_equal_slices_has_no_ends():
    label = stack((6, 6, 6, 6), rv=(0, 1))
    for references in ([label], [label * 0], [], [stack((5,))]):
        assert positions.base_is_first(references) is None
    assert rows(label, label, base_first=None) == {
        ("lv_cavity", "middle"): (1, 2), ("lv_myocardium", "middle"): (1, 2), ("rv_cavity", "middle"): (1, 2),
    }  # fmt: skip


def slow_dice(reference, predicted, value, slices):
    both = a = b = 0
    for z in slices:
        for p, q in zip(reference[..., z].ravel(), predicted[..., z].ravel(), strict=True):
            both, a, b = both + (p == value == q), a + (p == value), b + (q == value)
    return 2 * both / (a + b)


@pytest.mark.parametrize("reverse", [False, True])
def test_scores_equal_a_slow_loop_in_either_order_of_slices(reverse):
    """Eight slices, of which the fourth and the last two lack the left ventricle: 2, 1 and 2."""
    reference = stack((9, 8, 7, None, 6, 4, None, None), rv=(0, 1, 2, 3, 6))
    predicted = stack((8, 8, 5, 5, 6, 3, 3, None), rv=(0, 1, 4))
    slices = {"base": (0, 1), "middle": (2,), "apex": (4, 5)}
    expected = {
        (structure, name): (pytest.approx(slow_dice(reference, predicted, value, chosen)), len(chosen))
        for structure, value in zip(anatomy.PLANE_STRUCTURES["sax"], (LV, MYO, RV), strict=True)
        for name, chosen in slices.items()
    }
    pair = (reference[..., ::-1], predicted[..., ::-1]) if reverse else (reference, predicted)
    assert rows(*pair, base_first=positions.base_is_first(pair[:1])) == expected
    assert expected["rv_cavity", "base"] == (1, 2)  # its error in slice 3 is in no position
    assert expected["rv_cavity", "middle"] == (0, 1)  # missed
    assert expected["rv_cavity", "apex"] == (0, 2)  # spurious


def test_a_row_needs_the_structure_in_one_of_the_labels():
    reference, predicted = stack((9, 7, 5), rv=(0,)), stack((9, 7, 5), rv=(0, 1))
    assert [key for key in rows(reference, predicted) if key[0] == "rv_cavity"] == [
        ("rv_cavity", "base"),
        ("rv_cavity", "middle"),
    ]
    assert set(rows(reference, predicted, ("rv_cavity",))) == {("rv_cavity", "base"), ("rv_cavity", "middle")}
    assert rows(reference * 0, predicted) == {}  # no ventricle, no thirds


def test_the_base_of_synthetic_hearts_is_where_the_affine_says(tmp_path):
    source = Synthetic(generate(tmp_path / "cohort", subjects=2, seed=3, workers=1, progress=False))
    for subject in source.subjects():
        frames = [f for f in source.read(subject, ("sax",)).views["sax"].frames if f.label is not None]
        assert len(frames) == 2
        for frame in frames:
            expected = bool(frame.affine[:3, 2] @ TOWARDS_APEX > 0)
            assert positions.base_is_first([frame.label]) is expected
            assert positions.base_is_first([frame.label[..., ::-1]]) is not expected


@pytest.mark.skipif(not (SHARED / "data/acdc").is_dir(), reason="the ACDC images are not on this machine")
def test_the_base_of_acdc_hearts_is_on_the_side_of_the_right_ventricle():
    """An independent sign. The affines of ACDC hold none."""
    source = Acdc(SHARED / "data/acdc")
    for subject in source.subjects()[::4]:
        labels = [f.label for f in source.read(subject, ("sax",)).views["sax"].frames if f.label is not None]
        assert positions.base_is_first(labels) is True
        rv = sum((label == RV).sum((0, 1)) for label in labels)
        lv = np.flatnonzero(sum((label == MYO).sum((0, 1)) for label in labels))
        assert rv @ np.arange(len(rv)) / rv.sum() < (lv[0] + lv[-1]) / 2
