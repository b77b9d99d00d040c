"""What looks suspicious in cohorts that were spoiled on purpose."""

import shutil

import numpy as np
import pandas as pd
import pytest

from morphojax.data.inspection import suspicions
from tests.data import cohorts
from tests.data.inspection.spoiled import (
    change_cell,
    change_label,
    clear,
    clear_second_slice,
    image_path,
    inspect,
    repeat_phase,
    replace_images,
    share_images,
)


@pytest.fixture(scope="module")
def unspoiled(tmp_path_factory):
    return cohorts.acdc(tmp_path_factory.mktemp("acdc"), subjects=6)


@pytest.fixture
def root(unspoiled, tmp_path):
    return shutil.copytree(unspoiled, tmp_path / "cohort")


@pytest.mark.parametrize(
    ("spoil", "what", "subjects"),
    [
        (lambda root: image_path(root, 4).write_bytes(b"?"), "cannot be read, so prepare leaves them out", (3,)),
        (share_images, "the same image as another subject", (1, 4)),
        (repeat_phase, "the same image at two phases", (2,)),
        (lambda root: cohorts.save(image_path(root, 1), cohorts.image() * 0), "an image of one grey value", (0,)),
        (replace_images(2, (40, 24, 4)), "sax: pixels along X far from the median", (1,)),
        (replace_images(2, (20, 24, 9)), "sax: slices far from the median", (1,)),
        (replace_images(6, (20, 24, 4), np.diag([-3, -3, 10, 1.0])), "sax: mm in plane far from the median", (5,)),
        (
            replace_images(6, (20, 24, 4), np.diag([-1.5, -1.5, 4, 1.0])),
            "sax: mm between slices far from the median",
            (5,),
        ),
        (replace_images(6, (20, 24, 4), np.diag([-1.5, -1.6, 10, 1.0])), "sax: pixels are not square", (5,)),
        (replace_images(3, (20, 24, 4), values=(1, 2)), "sax: lv_cavity annotated but empty", (2,)),
        (change_label(1, clear), "sax: an empty label", (0,)),
        (change_label(1, clear_second_slice), "sax: an empty slice between labelled ones", (0,)),
        (change_label(6, lambda a: None, "09"), "sax: lv_cavity at ES: volume far from the median", (5,)),
        (
            lambda root: cohorts.save(image_path(root, 2, "01", True), cohorts.label(radius=2)),
            "sax: lv_cavity larger at ES than at ED",
            (1,),
        ),
        (change_cell("patient", 3, "patient999"), "images but no table row", (3,)),
        (change_cell("patient", 3, "patient999"), "table rows without images: 1", ()),
        (change_cell("lv_ef_percent", slice(None), ""), "columns all missing: lv_ef_percent", ()),
        (change_cell("lv_ef_percent", slice(None), "50"), "columns constant: lv_ef_percent, group", ()),
        (change_cell("group", 2, "unheard"), "column group: 1 values outside its categories", ()),
    ],
)
def test_each_defect_is_reported_for_its_subject(root, spoil, what, subjects):
    spoil(root)
    _, suspicious = inspect(root)
    assert suspicious.get(what, f"only {list(suspicious)}") == subjects


def test_a_repeated_phase_or_constant_image_is_not_shared_with_another_subject(root):
    repeat_phase(root)
    for n in (1, 2):
        cohorts.save(image_path(root, n), cohorts.image() * 0)
    _, suspicious = inspect(root)
    assert suspicious["the same image at two phases"] == (2,) and suspicious["an image of one grey value"] == (0, 1)
    assert "the same image as another subject" not in suspicious


def test_an_outlier_needs_enough_values_and_a_large_distance():
    assert not suspicions.outliers(pd.Series([1.0, 1, 1, 99])).any()
    assert suspicions.outliers(pd.Series([1.0, 1, 1, 1, 1.29, 1.31])).tolist() == [False] * 5 + [True]
    spread = pd.Series([80.0, 90, 100, 110, 120, 180, 300, np.nan])
    assert suspicions.outliers(spread).tolist() == [False] * 6 + [True, False]


def test_the_subject_with_an_unusual_set_of_annotated_structures_is_named(tmp_path):
    for n, (stem, values) in enumerate((("seg4", (1, 2, 3, 4, 5)), ("label", (1, 2)), ("seg4", (1, 2, 3, 4, 5)))):
        cohorts.save(tmp_path / f"s{n}/la_4ch_ED.nii.gz", cohorts.image((20, 24, 1), seed=n))
        cohorts.save(tmp_path / f"s{n}/{stem}_la_4ch_ED.nii.gz", cohorts.label((20, 24, 1), values))
    _, suspicious = inspect(tmp_path, "ukb_nifti", ("la_4ch",))
    assert suspicious["la_4ch: other structures annotated than in most subjects"] == (1,)
