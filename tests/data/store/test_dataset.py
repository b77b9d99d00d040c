"""A prepared dataset reads back; damage to it is noticed and named."""

import itertools
import json
import re
import shutil

import pytest

from morphojax.data.store import manifest
from morphojax.data.store.dataset import Dataset, DatasetError
from morphojax.data.store.records import describe
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
            assert manifest.read_manifest(prepared).fingerprint == expected
        except DatasetError as error:
            assert "dataset.json" in str(error)


def test_a_manifest_without_its_digest_is_read(prepared):
    path = prepared / "dataset.json"
    expected, state = Dataset.open(prepared).fingerprint, json.loads(path.read_text())
    del state[manifest.OWN]  # as older versions wrote it
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


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("slices"),
        lambda m: m.update(percentiles=["1", "99"]),
        lambda m: m.update(planes="sax"),
        lambda m: m.update(planes=["sax", "sax"]),
        lambda m: m.update(planes=["sax", "../x"]),
        lambda m: m.update(planes=[]),
        lambda m: m.update(native={}),
        lambda m: m.update(warnings=[]),
        lambda m: m.update(files=m["files"][1:]),
        lambda m: m["files"][0].update(path=["subjects.csv"]),
        lambda m: m["files"][0].update(path="a" * 300),
        lambda m: m["slices"]["sax"][0].update(path="/etc/passwd"),
        lambda m: m["slices"]["sax"][0].update(path="../out/x"),
        lambda m: m["slices"]["sax"][0].update(records=-1),
        lambda m: m["schema"][0].update(name={}),
        lambda m: m["schema"][0].update(measures=["lv_cavity:ED:ml"]),
        lambda m: m["schema"][0].update(unit=7),
        lambda m: m["schema"][0].update(meaning="x"),
        lambda m: m.update(schema=m["schema"][1:]),
        lambda m: m["grid"].update(size=0),
        lambda m: m["grid"].update(size="128"),
    ],
)
def test_a_manifest_of_another_structure_is_named(prepared, change):
    path = prepared / "dataset.json"
    state = json.loads(path.read_text())
    del state["manifest_sha256"]  # which would tell at once
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(DatasetError, match=re.escape(str(prepared))):
        Dataset.open(prepared)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("subjects.csv", "subject\na\n"),
        ("subjects.csv", "subject,split\na,train\na,train\nb,val\nc,test\n"),
        ("subjects.csv", "subject,split\na,train\nb,other\nc,val\nd,test\n"),
        ("subjects.csv", "\xff\xfe"),
        ("table.csv", ""),
        ("table.csv", "x,y\n0,1\n"),
        ("sax/stacks.csv", "subject,phase\n0,ED\n"),
        ("sax/stacks.csv", "subject,phase,phase_from,first,slices,structures\n9,ED,file,0,4,\n"),
        ("sax/stacks.csv", "subject,phase,phase_from,first,slices,structures\n0,ED,file,30,4,\n"),
        ("sax/stacks.csv", "subject,phase,phase_from,first,slices,structures\n0,ED,file,x,4,\n"),
        ("sax/stacks.csv", "subject,phase,phase_from,first,slices,structures\n0,ED,file,0,4,\n1e400\n"),
        ("sax/stacks.csv", "subject,phase,phase_from,first,slices,structures\n0,ED,file,0,4,,,,\n0,ED\n"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_table_of_another_structure_is_named_even_with_its_digest(prepared, name, content):
    (prepared / name).write_text(content, encoding="latin-1")
    path = prepared / "dataset.json"
    state = json.loads(path.read_text())
    for file in state["files"]:
        if file["path"] == name:
            file.update(describe(prepared, name).to_json())
    del state["manifest_sha256"]
    path.write_text(json.dumps(state))
    with pytest.raises(DatasetError, match=rf"{name}: not as prepare writes it"):
        Dataset.open(prepared)
