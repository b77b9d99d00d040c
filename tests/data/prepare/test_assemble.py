"""A prepared dataset holds its cohort, whatever the number of processes and interruptions."""

import numpy as np
import pandas as pd
import pytest

from morphojax.data.geometry import Grid, normalise, place, to_grid
from morphojax.data.prepare import assemble
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.partials import PartialResults
from morphojax.data.prepare.spec import PARTIAL, PrepareSpec
from morphojax.data.sources.acdc import Acdc
from morphojax.data.store.dataset import Dataset, DatasetError, Manifest
from morphojax.data.store.lock import locked
from tests.data import cohorts
from tests.data.preparing import file_hashes, interrupted_before_the_manifest, prepare_acdc

GRID = Grid(1.5, 16)


@pytest.fixture
def root(tmp_path):
    return cohorts.acdc(tmp_path / "cohort", subjects=4)


@pytest.fixture
def prepared(root, tmp_path):
    prepare_acdc(root, tmp_path / "out")
    return tmp_path / "out"


def test_a_partial_result_that_vanishes_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setattr(PartialResults, "read", lambda self, subject: None)
    with pytest.raises(PrepareError, match="was damaged or removed in the meantime; run again"):
        prepare_acdc(root, tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()


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
    native, native_placement = dataset.native("sax", 5)
    np.testing.assert_array_equal(native, label)
    assert native_placement == placement
    assert dataset.table["lv_edv_ml"].tolist() == [1.0, 2.0, 3.0, 4.0] and dataset.table.index.tolist() == [0, 1, 2, 3]
    assert dataset.schema.names == tuple(dataset.table.columns)


def test_the_manifest_names_no_subject_and_survives_json(prepared):
    text = (prepared / "dataset.json").read_text()
    assert "patient0" not in text
    manifest = Dataset.open(prepared).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert not (prepared / ".partial").exists()


def test_the_fingerprint_follows_the_content(root, prepared, tmp_path):
    prepare_acdc(root, tmp_path / "again")
    assert Dataset.open(tmp_path / "again").fingerprint == Dataset.open(prepared).fingerprint
    prepare_acdc(root, tmp_path / "other", grid=Grid(1.5, 14))
    assert Dataset.open(tmp_path / "other").fingerprint != Dataset.open(prepared).fingerprint


def test_the_number_of_workers_changes_no_byte(root, tmp_path):
    cohorts.acdc(root, subjects=9)
    prepare_acdc(root, tmp_path / "one")
    prepare_acdc(root, tmp_path / "two", workers=2)
    assert file_hashes(tmp_path / "one") == file_hashes(tmp_path / "two")


def test_an_unreadable_subject_is_reported_and_left_out(root, tmp_path):
    bad = root / "training/patient002/patient002_frame01.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-20])
    summary = prepare_acdc(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.subjects == ("patient001", "patient003", "patient004") and dataset.manifest.counts["failed"] == 1
    assert dataset.table["lv_edv_ml"].tolist() == [1.0, 3.0, 4.0]
    report = pd.read_csv(tmp_path / "out/report.csv")
    assert report[report["status"] == "failed"]["subject"].tolist() == ["patient002"]
    assert "gzip" in summary.report["message"].iloc[0]
    with pytest.raises(PrepareError, match=r"subject patient002: .*truncated or corrupt gzip"):
        prepare_acdc(root, tmp_path / "strict", strict=True)
    with pytest.raises(DatasetError, match=r"dataset.json not found"):
        Dataset.open(tmp_path / "strict")


def test_a_cohort_without_readable_subjects_is_an_error(root, tmp_path):
    for path in root.rglob("*_frame01.nii.gz"):
        path.write_bytes(b"")
    with pytest.raises(PrepareError, match="none of the 4 subjects"):
        prepare_acdc(root, tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()
    assert len(pd.read_csv(tmp_path / "out/report.csv")) == 4


def test_images_without_a_row_and_rows_without_images(root, tmp_path):
    table = pd.read_csv(root / "morphometrics.csv")
    table.loc[table["patient"] == "patient002", "patient"] = "patient999"
    table.to_csv(root / "morphometrics.csv", index=False)
    prepare_acdc(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert len(dataset.subjects) == 4 and dataset.table.iloc[1].isna().all() and dataset.table.iloc[2].notna().all()
    assert dataset.manifest.counts["without_row"] == dataset.manifest.counts["rows_without_images"] == 1
    report = pd.read_csv(tmp_path / "out/report.csv").set_index("status")["subject"]
    assert report["no row"] == "patient002" and report["no images"] == "patient999"


def test_a_cohort_without_a_table(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1, table=False)
    prepare_acdc(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.table.shape == (1, 0) and dataset.schema.columns == ()


def test_duplicate_table_rows_are_an_error(root, tmp_path):
    path = root / "morphometrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ValueError, match=r"rows 0 and 4 \(counting from 0\) have the same patient"):
        prepare_acdc(root, tmp_path / "out")


def test_stacks_of_one_slice(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1, shape=(20, 24, 1))
    prepare_acdc(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.stacks("sax")["slices"].tolist() == [1, 1]
    label, placement = dataset.native("sax", 0)
    assert label is not None and label.shape == placement.shape == (20, 24, 1)


def test_unlabelled_stacks_have_a_label_of_zeros(root, tmp_path):
    (root / "training/patient001/patient001_frame01_gt.nii.gz").unlink()
    prepare_acdc(root, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.stacks("sax")["labelled"].tolist() == [False] + [True] * 7
    assert not dataset.slices("sax")[0]["label"].any() and dataset.native("sax", 0)[0] is None


def _add_cines(root, frames=12):
    for n in (1, 2, 3, 4):
        cine = cohorts.image((20, 24, 4, frames), seed=n)
        cohorts.save(root / f"training/patient{n:03d}/patient{n:03d}_4d.nii.gz", cine)
    return cine


def test_frames_of_a_cine_are_additional_stacks(root, tmp_path):
    cine = _add_cines(root)
    prepare_acdc(root, tmp_path / "out", frames="3")
    dataset = Dataset.open(tmp_path / "out")
    stacks = dataset.stacks("sax")
    assert stacks["phase"].tolist() == ["ED", "mid", "ES", "t000", "t004", "t008"] * 4
    assert stacks["labelled"].tolist() == [True, False, True, False, False, False] * 4
    row = stacks[(stacks["subject"] == 3) & (stacks["phase"] == "t008")].iloc[0]
    frame = cine[..., 8].astype(np.float32)
    expected = to_grid(normalise(frame, 0.5, 99.5), place(frame, cohorts.AFFINE, GRID), 1)
    images = [dataset.slices("sax")[row["first"] + z]["image"] for z in range(row["slices"])]
    np.testing.assert_array_equal(images, expected)
    assert dataset.native("sax", row.name)[0] is None


def test_voxels_outside_the_crop_are_counted_and_warned_about(root, tmp_path):
    prepare_acdc(root, tmp_path / "out", grid=Grid(1.5, 8))
    counts = Dataset.open(tmp_path / "out").manifest.counts["planes"]["sax"]
    total, cut = 0, 0
    for radius in (7, 4):
        labelled = cohorts.label(radius=radius) > 0
        inside = labelled[10 - 4 : 10 + 4, 12 - 4 : 12 + 4]
        total, cut = total + 4 * labelled.sum(), cut + 4 * (labelled.sum() - inside.sum())
    assert (counts["label_voxels"], counts["label_voxels_cut"]) == (total, cut)
    assert Dataset.open(tmp_path / "out").manifest.warnings == {"sax: the crop cuts off more than 2% of a label": 4}


def test_interrupted_while_assembling_and_run_again_gives_the_same_bytes(root, tmp_path, monkeypatch):
    with interrupted_before_the_manifest(monkeypatch):
        prepare_acdc(root, tmp_path / "out")
    with pytest.raises(DatasetError):
        Dataset.open(tmp_path / "out")
    partial = next((tmp_path / "out/.partial").glob("*.msgpack"))
    partial.write_bytes(partial.read_bytes()[:100])  # a power failure cut it off
    prepare_acdc(root, tmp_path / "out")
    prepare_acdc(root, tmp_path / "uninterrupted")
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "uninterrupted")


def test_a_second_preparation_of_the_same_output_is_refused(root, tmp_path):
    (tmp_path / "out" / PARTIAL).mkdir(parents=True)
    with locked(tmp_path / "out" / PARTIAL / "lock"), pytest.raises(PrepareError, match="is at work here"):
        prepare_acdc(root, tmp_path / "out")
    prepare_acdc(root, tmp_path / "out")
    assert not (tmp_path / "out" / PARTIAL).exists()


def test_every_subject_is_in_one_shard_and_shards_are_even(root, tmp_path):
    cohorts.acdc(root, subjects=6)
    (root / "training/patient002/Info.cfg").write_text("ED: 1\n")  # cannot be read
    spec = PrepareSpec(Acdc(root), tmp_path / "o", "acdc", Grid(1.5, 16))
    shards = [assemble.prepare_shard(spec, (i, 4), workers=1, progress=False) for i in (1, 2, 3, 4)]
    assert [(shard.done, shard.failed) for shard in shards] == [(2, 0), (1, 1), (1, 0), (1, 0)]
    empty = assemble.prepare_shard(spec, (9, 9), workers=1, progress=False)
    assert (empty.done, empty.failed) == (0, 0)
    with pytest.raises(PrepareError, match="shard 5/4"):
        assemble.prepare_shard(spec, (5, 4))
