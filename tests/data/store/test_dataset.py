"""A prepared dataset reads back; damage to it is noticed and named."""

import shutil

import pytest

from morphojax.data.store.dataset import Dataset, DatasetError
from tests.data import cohorts
from tests.data.preparing import prepare_acdc


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    prepare_acdc(cohorts.acdc(folder / "cohort", subjects=4), folder / "out")
    return folder / "out"


@pytest.fixture
def prepared(undamaged, tmp_path):
    return shutil.copytree(undamaged, tmp_path / "out")


@pytest.mark.parametrize("file", ["sax/slices-00000.array_record", "sax/native-00000.array_record", "subjects.csv"])
def test_files_damaged_after_writing_are_named(prepared, file):
    path = prepared / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=rf"{path.name} has \d+ bytes"):
        Dataset.open(prepared)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} is missing"):
        Dataset.open(prepared)


def test_verify_compares_every_byte(prepared):
    path = prepared / "sax/slices-00000.array_record"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    Dataset.open(prepared)
    with pytest.raises(DatasetError, match=r"slices-00000\.array_record does not hold"):
        Dataset.open(prepared, verify=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 99}', '{"format_version": 1}'])
def test_a_bad_manifest_is_named(prepared, text):
    (prepared / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        Dataset.open(prepared)


def test_an_absent_plane_is_named(prepared):
    with pytest.raises(DatasetError, match="no plane 'la_2ch', only sax"):
        Dataset.open(prepared).slices("la_2ch")


def test_a_plane_without_images_has_no_stacks(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1)
    prepare_acdc(root, tmp_path / "out", planes=("sax", "la_4ch"))
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.stacks("la_4ch").empty and dataset.manifest.labelled["la_4ch"] == ()
    assert dataset.annotated("la_4ch").shape == (0, 5) and dataset.annotated("sax").shape == (2, 5)
