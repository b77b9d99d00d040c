"""A prepared dataset reads back; damage to it is noticed and named."""

import itertools
import json
import shutil

import pytest

from morphojax.data.store import dataset
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


def test_a_flip_of_any_byte_of_the_manifest_is_found_or_changes_nothing(prepared):
    """A changed unit, measure or hash would otherwise be believed."""
    path = prepared / "dataset.json"
    expected, data = Dataset.open(prepared).fingerprint, path.read_bytes()
    for position, bit in zip(range(0, len(data), 11), itertools.cycle((1, 2, 16, 128))):
        path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        try:
            assert dataset._read_manifest(prepared).fingerprint == expected
        except DatasetError as error:
            assert "dataset.json" in str(error)


def test_a_manifest_without_its_digest_is_read(prepared):
    path = prepared / "dataset.json"
    expected, state = Dataset.open(prepared).fingerprint, json.loads(path.read_text())
    del state[dataset._OWN]  # as older versions wrote it
    path.write_text(json.dumps(state))
    assert Dataset.open(prepared).fingerprint == expected


def test_an_absent_plane_is_named(prepared):
    with pytest.raises(DatasetError, match="no plane 'la_2ch', only sax"):
        Dataset.open(prepared).slices("la_2ch")


def test_a_plane_without_images_has_no_stacks(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1)
    prepare_acdc(root, tmp_path / "out", planes=("sax", "la_4ch"))
    opened = Dataset.open(tmp_path / "out")
    assert opened.stacks("la_4ch").empty and opened.manifest.labelled["la_4ch"] == ()
    assert opened.annotated("la_4ch").shape == (0, 5) and opened.annotated("sax").shape == (2, 5)
