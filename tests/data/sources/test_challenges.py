"""Challenge cohorts and a mapped folder, written from the synthetic cohort, give its records."""

import numpy as np
import pytest

from morphojax.data.geometry import Grid
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.sources import SOURCES
from morphojax.data.sources.mnms import Mnms
from morphojax.data.store.dataset import Dataset
from tests.data import cohorts
from tests.data.preparing import prepare

PLANES = {"mnms": ("sax",), "mnms2": ("sax", "la_4ch"), "nifti_table": ("sax", "la_4ch")}
WRITE = {"mnms": cohorts.mnms, "mnms2": cohorts.mnms2, "nifti_table": cohorts.nifti_table}


def _prepared(source, output, planes, name, **options):
    prepare(source, output, name=name, planes=planes, grid=Grid(2.5, 48), **options)
    return Dataset.open(output)


@pytest.fixture(scope="module")
def original(synthetic, tmp_path_factory):
    """The prepared synthetic cohort."""
    return _prepared(synthetic, tmp_path_factory.mktemp("original") / "out", ("sax", "la_4ch"), "synthetic")


@pytest.mark.parametrize("name", PLANES)
def test_records_equal_those_of_the_original_cohort(synthetic, original, tmp_path, name):
    planes = PLANES[name]
    dataset = _prepared(SOURCES[name](WRITE[name](synthetic, tmp_path / "in")), tmp_path / "out", planes, name)
    assert len(dataset.subjects) == 4 and dataset.manifest.counts["failed"] == 0
    for plane in planes:
        stacks, expected_stacks = dataset.stacks(plane), original.stacks(plane)
        keys = ["subject", "phase", "slices"]
        if name == "nifti_table" and plane == "la_4ch":
            expected_stacks = expected_stacks[expected_stacks["phase"] != "mid"]  # written without a cine
        assert stacks[keys].values.tolist() == expected_stacks[keys].values.tolist()
        ventricles = np.array([0, 1, 2, 3, 0, 0], np.uint8)  # these formats label no atria
        for stack, expected in zip(stacks.to_dict("records"), expected_stacks.to_dict("records"), strict=True):
            unlabelled = name == "mnms" and stack["subject"] == 1  # in Training/Unlabeled
            assert stack["labelled"] == (expected["labelled"] and not unlabelled)
            for z in range(stack["slices"]):
                record = dataset.slices(plane)[stack["first"] + z]
                expected_record = original.slices(plane)[expected["first"] + z]
                np.testing.assert_array_equal(record["image"], expected_record["image"])
                np.testing.assert_array_equal(record["label"], ventricles[expected_record["label"]] * (not unlabelled))
        row = int(np.flatnonzero(stacks["labelled"])[-1])
        label, placement = dataset.native(plane, row)
        expected_label, expected_placement = original.native(plane, int(expected_stacks.index[row]))
        np.testing.assert_array_equal(label, ventricles[expected_label])
        np.testing.assert_allclose(placement.affine, expected_placement.affine, atol=1e-4)


def test_the_official_split(synthetic, tmp_path):
    root = cohorts.mnms(synthetic, tmp_path / "in")
    dataset = _prepared(Mnms(root), tmp_path / "out", ("sax",), "mnms", split_file="official")
    assert dataset.splits.tolist() == ["train", "train", "val", "test"]
    with pytest.raises(PrepareError, match="knows no official split"):
        _prepared(synthetic, tmp_path / "other", ("sax",), "synthetic", split_file="official")
