import hashlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from morphojax.data.geometry import Grid, normalise, place, to_grid
from morphojax.data.prepare.embedded import default_cache, ensure_synthetic
from morphojax.data.prepare.partials import PrepareError
from morphojax.data.sources.acdc import Acdc
from morphojax.data.store.dataset import Dataset, DatasetError, Manifest
from tests.data import cohorts
from tests.data.preparing import prepare

GRID = Grid(1.5, 16)


def _prepare(root, output, **options):
    options: dict[str, Any] = {"name": "acdc", "grid": GRID, "workers": 1, "progress": False} | options
    return prepare(Acdc(root), output, **options)


def _bytes(folder) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def root(tmp_path):
    return cohorts.acdc(tmp_path / "cohort", subjects=4)


@pytest.fixture
def prepared(root, tmp_path):
    _prepare(root, tmp_path / "out")
    return tmp_path / "out"


def test_the_dataset_holds_the_cohort(root, prepared):
    dataset = Dataset.open(prepared)
    assert dataset.subjects == ("patient001", "patient002", "patient003", "patient004")
    assert dataset.manifest.labelled == {"sax": ("lv_cavity", "lv_myocardium", "rv_cavity")}
    stacks = dataset.stacks("sax")
    assert stacks["subject"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and stacks["phase"].tolist() == ["ED", "ES"] * 4
    assert stacks["first"].tolist() == list(range(0, 32, 4)) and stacks["labelled"].all()
    assert len(dataset.slices("sax")) == 32
    # patient003 at ES: the sixth stack, slices in the order of Z.
    image, label = cohorts.image(seed=309).astype(np.float32), np.array([0, 3, 2, 1], np.uint8)[cohorts.label(radius=4)]
    placement = place(image, cohorts.AFFINE, GRID)
    records = [dataset.slices("sax")[20 + z] for z in range(4)]
    np.testing.assert_array_equal([r["image"] for r in records], to_grid(normalise(image, 0.5, 99.5), placement, 1))
    np.testing.assert_array_equal([r["label"] for r in records], to_grid(label, placement, 0))
    native, found = dataset.native("sax", 5)
    np.testing.assert_array_equal(native, label)
    assert found == placement
    assert dataset.table["lv_edv_ml"].tolist() == [1.0, 2.0, 3.0, 4.0] and dataset.table.index.tolist() == [0, 1, 2, 3]
    assert dataset.schema.names == tuple(dataset.table.columns)


def test_the_manifest_names_nobody_and_survives_json(prepared):
    text = (prepared / "dataset.json").read_text()
    assert "patient0" not in text
    manifest = Dataset.open(prepared).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert not (prepared / ".partial").exists()


def test_the_fingerprint_follows_the_content(root, prepared, tmp_path):
    _prepare(root, tmp_path / "again")
    assert Dataset.open(tmp_path / "again").fingerprint == Dataset.open(prepared).fingerprint
    _prepare(root, tmp_path / "other", grid=Grid(1.5, 14))
    assert Dataset.open(tmp_path / "other").fingerprint != Dataset.open(prepared).fingerprint


def test_workers_do_not_change_a_byte(root, prepared, tmp_path):
    cohorts.acdc(root, subjects=9)
    _prepare(root, tmp_path / "one")
    _prepare(root, tmp_path / "two", workers=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_a_bad_subject_is_reported_and_left_out(root, tmp_path):
    bad = root / "training/patient002/patient002_frame01.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-20])
    summary = _prepare(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.subjects == ("patient001", "patient003", "patient004") and dataset.manifest.counts["failed"] == 1
    assert dataset.table["lv_edv_ml"].tolist() == [1.0, 3.0, 4.0]
    report = pd.read_csv(tmp_path / "out/report.csv")
    assert report[report["status"] == "failed"]["subject"].tolist() == ["patient002"]
    assert "gzip" in summary.report["message"].iloc[0]
    with pytest.raises(PrepareError, match=r"subject patient002: .*truncated or corrupt gzip"):
        _prepare(root, tmp_path / "strict", strict=True)
    with pytest.raises(DatasetError, match=r"dataset.json not found"):
        Dataset.open(tmp_path / "strict")


def test_when_nobody_can_be_read(root, tmp_path):
    for path in root.rglob("*_frame01.nii.gz"):
        path.write_bytes(b"")
    with pytest.raises(PrepareError, match="none of the 4 subjects"):
        _prepare(root, tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()
    assert len(pd.read_csv(tmp_path / "out/report.csv")) == 4


def test_images_without_a_row_and_rows_without_images(root, tmp_path):
    table = pd.read_csv(root / "morphometrics.csv")
    table.loc[table["patient"] == "patient002", "patient"] = "patient999"
    table.to_csv(root / "morphometrics.csv", index=False)
    _prepare(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert len(dataset.subjects) == 4 and dataset.table.iloc[1].isna().all() and dataset.table.iloc[2].notna().all()
    assert dataset.manifest.counts["without_row"] == dataset.manifest.counts["rows_without_images"] == 1
    report = pd.read_csv(tmp_path / "out/report.csv").set_index("status")["subject"]
    assert report["no row"] == "patient002" and report["no images"] == "patient999"


def test_a_cohort_without_a_table(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1, table=False)
    _prepare(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.table.shape == (1, 0) and dataset.schema.columns == ()


def test_duplicate_rows_stop(root, tmp_path):
    path = root / "morphometrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ValueError, match=r"rows 0 and 4 \(counting from 0\) have the same patient"):
        _prepare(root, tmp_path / "out")


def test_one_slice_stacks(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1, shape=(20, 24, 1))
    _prepare(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.stacks("sax")["slices"].tolist() == [1, 1]
    label, placement = dataset.native("sax", 0)
    assert label is not None and label.shape == placement.shape == (20, 24, 1)


def test_unlabelled_stacks_have_a_label_of_zeros(root, tmp_path):
    (root / "training/patient001/patient001_frame01_gt.nii.gz").unlink()
    _prepare(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.stacks("sax")["labelled"].tolist() == [False] + [True] * 7
    assert not dataset.slices("sax")[0]["label"].any() and dataset.native("sax", 0)[0] is None


def _with_cines(root, frames=12):
    for n in (1, 2, 3, 4):
        cine = cohorts.image((20, 24, 4, frames), seed=n)
        cohorts.save(root / f"training/patient{n:03d}/patient{n:03d}_4d.nii.gz", cine)
    return cine


def test_frames_of_the_cine_are_further_stacks(root, tmp_path):
    cine = _with_cines(root)
    source = {"name": "acdc", "grid": GRID, "workers": 1, "progress": False}
    prepare(Acdc(root, frames="3"), tmp_path / "out", **source)
    dataset = Dataset.open(tmp_path / "out")
    stacks = dataset.stacks("sax")
    assert stacks["phase"].tolist() == ["ED", "mid", "ES", "t000", "t004", "t008"] * 4
    assert stacks["labelled"].tolist() == [True, False, True, False, False, False] * 4
    row = stacks[(stacks["subject"] == 3) & (stacks["phase"] == "t008")].iloc[0]
    frame = cine[..., 8].astype(np.float32)
    expected = to_grid(normalise(frame, 0.5, 99.5), place(frame, cohorts.AFFINE, GRID), 1)
    found = [dataset.slices("sax")[row["first"] + z]["image"] for z in range(row["slices"])]
    np.testing.assert_array_equal(found, expected)
    assert dataset.native("sax", row.name)[0] is None


def test_another_choice_of_frames_does_not_go_on_with_what_was_begun(root, tmp_path, monkeypatch):
    _with_cines(root)
    source = {"name": "acdc", "grid": GRID, "workers": 1, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare(Acdc(root), tmp_path / "out", **source)
    with pytest.raises(PrepareError, match="other settings"):
        prepare(Acdc(root, frames="3"), tmp_path / "out", **source)


def test_the_crop_is_counted_by_hand_and_warned_of(root, tmp_path):
    _prepare(root, tmp_path / "out", grid=Grid(1.5, 8))
    counts = Dataset.open(tmp_path / "out").manifest.counts["planes"]["sax"]
    total, cut = 0, 0
    for radius in (7, 4):
        drawn = cohorts.label(radius=radius) > 0
        inside = drawn[10 - 4 : 10 + 4, 12 - 4 : 12 + 4]
        total, cut = total + 4 * drawn.sum(), cut + 4 * (drawn.sum() - inside.sum())
    assert (counts["label_voxels"], counts["label_voxels_cut"]) == (total, cut)
    assert Dataset.open(tmp_path / "out").manifest.warnings == {"sax: the crop cuts off more than 2% of a label": 4}


def _splits(tmp_path, text):
    (tmp_path / "splits.csv").write_text("subject,split\n" + text)
    return tmp_path / "splits.csv"


def test_splits_from_a_file(root, tmp_path):
    listed = "patient001,test\npatient002,train\npatient003,none\npatient004,val\npatient777,train\n"
    _prepare(root, tmp_path / "out", split_file=_splits(tmp_path, listed))
    dataset = Dataset.open(tmp_path / "out")
    assert dict(zip(dataset.subjects, dataset.splits, strict=True)) == {
        "patient001": "test", "patient002": "train", "patient004": "val",
    }  # fmt: skip
    assert dataset.manifest.counts["left_out"] == 1 and dataset.manifest.counts["rows_without_images"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient001,train\n", "3 subjects with images are not listed, e.g. patient002"),
        ("patient001,training\n", "'training' is not one of train, val, test, none"),
        ("patient001,train\npatient001,test\n", "line 3: the subject is listed twice"),
    ],
)
def test_bad_split_files(root, tmp_path, text, message):
    with pytest.raises(PrepareError, match=message):
        _prepare(root, tmp_path / "out", split_file=_splits(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": ("axial",)}, "planes"),
        ({"planes": ()}, "planes"),
        ({"percentiles": (99.0, 1.0)}, "percentiles"),
        ({"split_fractions": {"train": 0.5}}, "sum to 1"),
    ],
)
def test_bad_options(root, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _prepare(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_refuses_an_output_that_is_taken(root, prepared, tmp_path):
    with pytest.raises(PrepareError, match="already holds a dataset"):
        _prepare(root, prepared)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    with pytest.raises(PrepareError, match="not empty"):
        _prepare(root, tmp_path / "mine")


def test_unwritable_output(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepareError, match=r"file.* cannot be written"):
        _prepare(root, tmp_path / "file" / "out")


KILLED = """
import sys, time
from morphojax.data.prepare import partials
from tests.data.test_preparation import _prepare
slow = partials.Job.run
def run(self, subject):
    time.sleep(0.05)
    return slow(self, subject)
partials.Job.run = run
_prepare(*map(__import__("pathlib").Path, sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [1, 4])
def test_killed_and_run_again_equals_never_killed(root, tmp_path, after):
    cohorts.acdc(root, subjects=6)
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(output)], env=os.environ)
    deadline = time.monotonic() + 120
    while len(list(output.glob(".partial/*.msgpack"))) < after and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in output.glob(".partial/*.msgpack")}
    assert after <= len(done) < 6
    with pytest.raises(DatasetError, match="no prepared dataset"):
        Dataset.open(output)
    with pytest.raises(PrepareError, match="other settings"):
        _prepare(root, output, grid=Grid(2.0, 16))
    _prepare(root, output)
    _prepare(root, tmp_path / "whole")
    assert _bytes(output) == _bytes(tmp_path / "whole")


def test_killed_while_assembling(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            _prepare(root, tmp_path / "out")
    with pytest.raises(DatasetError):
        Dataset.open(tmp_path / "out")
    partial = next((tmp_path / "out/.partial").glob("*.msgpack"))
    partial.write_bytes(partial.read_bytes()[:100])  # a power failure cut it off
    _prepare(root, tmp_path / "out")
    _prepare(root, tmp_path / "whole")
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("file", ["sax/slices-00000.array_record", "sax/native-00000.array_record", "subjects.csv"])
def test_files_damaged_after_writing_are_named(prepared, file):
    path = prepared / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=rf"{path.name} has \d+ bytes"):
        Dataset.open(prepared)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} is missing"):
        Dataset.open(prepared)


def test_verify_reads_everything(prepared):
    path = prepared / "sax/slices-00000.array_record"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    Dataset.open(prepared)
    with pytest.raises(DatasetError, match=r"slices-00000\.array_record does not hold"):
        Dataset.open(prepared, verify=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 99}', '{"format_version": 1}'])
def test_a_manifest_that_is_none(prepared, text):
    (prepared / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        Dataset.open(prepared)


def test_an_absent_plane_is_named(prepared):
    with pytest.raises(DatasetError, match="no plane 'la_2ch', only sax"):
        Dataset.open(prepared).slices("la_2ch")


def test_the_embedded_cohort_is_made_once(tmp_path):
    path = ensure_synthetic(tmp_path, subjects=2, seed=0, grid=GRID, planes=("sax", "la_4ch"), workers=1)
    stamp = (path / "dataset.json").stat().st_mtime_ns
    assert ensure_synthetic(tmp_path, subjects=2, seed=0, grid=GRID, planes=("sax", "la_4ch")) == path
    assert (path / "dataset.json").stat().st_mtime_ns == stamp
    dataset = Dataset.open(path)
    assert dataset.manifest.source == "synthetic" and len(dataset.subjects) == 2
    assert len(dataset.manifest.labelled["la_4ch"]) == 5 and "cardiac_morphometric" in dataset.schema.groups
    assert set(dataset.stacks("la_4ch")["phase"]) == {"ED", "mid", "ES"}
    # Another grid shares the cohort, not the dataset.
    other = ensure_synthetic(tmp_path, subjects=2, seed=0, grid=Grid(2.0, 16), planes=("sax",), workers=1)
    assert other != path and other.parent == path.parent


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepareError, match="MORPHOJAX_CACHE"):
        ensure_synthetic(tmp_path / "file", subjects=2, seed=0, grid=GRID, planes=("sax",))


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MORPHOJAX_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("MORPHOJAX_CACHE")
    assert default_cache().name == "morphojax"
