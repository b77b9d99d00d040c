"""What an inspection finds in a raw cohort and in its prepared dataset."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from morphojax.data.geometry import Grid
from morphojax.data.inspection import survey
from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.cells import describe
from morphojax.data.tables.schema import Column, Schema
from tests.data import cohorts
from tests.data.inspection.spoiled import image_path, inspect, replace_images
from tests.data.preparing import prepare, prepare_acdc


@pytest.fixture
def root(tmp_path):
    return cohorts.acdc(tmp_path / "cohort", subjects=6)


def test_geometry_and_volumes_of_a_cohort(root):
    findings, suspicious = inspect(root)
    row = findings.stacks.iloc[1]
    assert (row["subject"], row["phase"], row["x"], row["y"], row["slices"]) == (0, "ES", 20, 24, 4)
    assert (row["spacing_x_mm"], row["slice_gap_mm"], row["orientation"]) == (1.5, 10, "LPS")
    assert (row["structures"], row["labelled_slices"]) == ("lv_cavity lv_myocardium rv_cavity", 4)
    voxels = (cohorts.label(radius=4) == 3).sum()  # in ACDC the number of the LV cavity
    assert row["lv_cavity_ml"] == pytest.approx(voxels * 1.5 * 1.5 * 10 / 1000) and np.isnan(row["la_cavity_ml"])
    assert len(findings.stacks) == 12 and not findings.failures and findings.without_row == ()
    # The toy hearts are as small as those of a cohort that lost its spacing.
    small = {what for what in suspicious if what.endswith("check the voxel spacing")}
    assert [what.split()[1] for what in sorted(small)] == ["lv_cavity", "lv_myocardium", "rv_cavity"]
    assert suspicious.keys() - small == {"columns constant: group"}


def test_volumes_of_adults_are_not_suspicious(root):
    for n in range(1, 7):
        replace_images(n, (20, 24, 4), np.diag([-4, -4, 20, 1.0]))(root)
    assert not [what for what in inspect(root)[1] if "voxel spacing" in what]


class _Warning(Acdc):
    def read(self, subject, planes):
        return dataclasses.replace(super().read(subject, planes), warnings=("twice", "twice"))


def test_warnings_of_the_reader_are_counted_by_subject(root):
    assert survey.of_source(_Warning(root), "acdc", ("sax",), 1, False).warnings == {"twice": 6}


def test_an_oblique_orientation_names_every_direction_once(root):
    turned = np.array([[0.72, -0.1, 0.71], [-0.1, -1, 0], [0.69, 0, -0.7]])
    left, _, right = np.linalg.svd(turned)
    turned = left @ right
    affine = np.eye(4)
    affine[:3, :3] = turned * [1.5, 1.5, 10]
    cohorts.save(image_path(root, 1), cohorts.image(), affine)
    image_path(root, 1, "01", True).unlink()
    assert inspect(root)[0].stacks["orientation"].tolist()[:2] == ["RPI", "LPS"]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return Synthetic(generate(tmp_path_factory.mktemp("synthetic"), 3, seed=0, workers=1, progress=False))


def test_every_layout_is_recognised(synthetic, tmp_path):
    assert survey.recognise(synthetic.root) == "synthetic"
    for name in ("mnms", "mnms2", "nifti_table"):
        assert survey.recognise(getattr(cohorts, name)(synthetic, tmp_path / name)) == name
    root = cohorts.acdc(tmp_path / "acdc", subjects=1)
    assert survey.recognise(root) == survey.recognise(root / "training") == "acdc"
    cohorts.save(tmp_path / "ukb/1/la_2ch.nii.gz", cohorts.image((8, 8, 1, 2)))
    assert survey.recognise(tmp_path / "ukb") == "ukb_nifti"
    for name in ("zips/1000017_20209_2_0.zip", "folders/1000017/1000017_20208_3_0.zip"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
        assert survey.recognise(tmp_path / name.split("/")[0]) == "ukb_dicom"
    (tmp_path / "ukb/participants.csv").write_text("")
    assert survey.recognise(tmp_path / "ukb") == "sunnybrook"
    with pytest.raises(CohortError, match="looks like no cohort"):
        survey.recognise(root / "training/patient001")


def test_a_cohort_and_its_dataset_give_the_same_findings(synthetic, tmp_path):
    cines, planes = Synthetic(synthetic.root, frames="4"), ("sax", "la_4ch")
    prepare(cines, tmp_path / "out", name="synthetic", grid=Grid(2.5, 48), planes=planes)
    of_dataset = survey.of_dataset(Dataset.open(tmp_path / "out"), progress=False)
    of_cohort, _ = inspect(synthetic.root, "synthetic", planes)
    different = ["digest", "cine_frames", "constant"]
    pd.testing.assert_frame_equal(
        of_dataset.stacks.drop(columns=different), of_cohort.stacks.drop(columns=different), check_dtype=False
    )
    assert set(of_dataset.stacks["cine_frames"]) == {4} and set(of_cohort.stacks["cine_frames"]) == {6}
    pd.testing.assert_frame_equal(of_dataset.columns, of_cohort.columns)
    assert (of_dataset.without_row, of_dataset.rows_without_images) == (
        of_cohort.without_row,
        of_cohort.rows_without_images,
    )


def test_table_columns_are_described():
    frame = pd.DataFrame({"a": [*np.zeros(99), 50.0], "b": [None] * 100, "c": [3.0] * 100, "d": ["x", "y"] * 50})
    schema = Schema(
        (
            *(Column(n, "continuous", "lifestyle") for n in "abc"),
            Column("d", "categorical", "lifestyle", categories=("x", "z")),
        )
    )
    frame.loc[:49, "c"] = np.nan
    described = describe(frame, schema).set_index("column")
    assert described["beyond"].tolist() == [1, 0, 0, 0] and described["outside"].tolist() == [0, 0, 0, 50]
    assert described["note"].tolist() == ["", "all missing", "constant", ""]
    assert (
        described["missing"].tolist() == [0, 1, 0.5, 0]
        and described.loc["a", "max"] == 50
        and described.loc["d", "classes"] == 2
    )


def test_the_contact_sheet_shows_slices_spread_over_the_stack(tmp_path):
    prepare_acdc(cohorts.acdc(tmp_path / "cohort", subjects=1, shape=(20, 24, 9)), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    sheet = survey.tiles(dataset)
    assert [title for *_, title in sheet] == [f"#0 sax {phase} z{z}" for phase in ("ED", "ES") for z in (2, 4, 6)]
    np.testing.assert_array_equal(sheet[4][0], dataset.slices("sax")[9 + 4]["image"])
