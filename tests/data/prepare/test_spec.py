"""Splits of a cohort, and which output folders a preparation accepts."""

import dataclasses

import pytest

from morphojax.data.geometry import Grid
from morphojax.data.prepare import assemble
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources.acdc import Acdc
from morphojax.data.store.dataset import Dataset
from tests.data import cohorts
from tests.data.preparing import interrupted_before_the_manifest, prepare_acdc


@pytest.fixture
def root(tmp_path):
    return cohorts.acdc(tmp_path / "cohort", subjects=4)


def _split_file(tmp_path, text):
    (tmp_path / "splits.csv").write_text("subject,split\n" + text)
    return tmp_path / "splits.csv"


def test_splits_from_a_file(root, tmp_path):
    listed = "patient001,test\npatient002,train\npatient003,none\npatient004,val\npatient777,train\n"
    prepare_acdc(root, tmp_path / "out", split_file=_split_file(tmp_path, listed))
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
def test_bad_split_files_are_refused(root, tmp_path, text, message):
    with pytest.raises(PrepareError, match=message):
        prepare_acdc(root, tmp_path / "out", split_file=_split_file(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": ("axial",)}, "planes"),
        ({"planes": ()}, "planes"),
        ({"percentiles": (99.0, 1.0)}, "percentiles"),
        ({"split_fractions": {"train": 0.5}}, "sum to 1"),
    ],
)
def test_bad_options_are_refused(root, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_acdc(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_ids_that_a_spreadsheet_would_run_need_a_key(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Acdc, "subjects", lambda self: ["=1+1", "patient001"])
    with pytest.raises(PrepareError, match=r"an id begins with one of = . @, which a spreadsheet runs"):
        prepare_acdc(root, tmp_path / "out")


def test_an_output_folder_with_other_contents_is_refused(root, tmp_path):
    prepare_acdc(root, tmp_path / "out")
    with pytest.raises(PrepareError, match="already holds a dataset"):
        prepare_acdc(root, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    with pytest.raises(PrepareError, match="not empty"):
        prepare_acdc(root, tmp_path / "mine")


def test_an_unwritable_output_folder_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepareError, match=r"file.* cannot be written"):
        prepare_acdc(root, tmp_path / "file" / "out")


def test_a_run_with_other_frames_does_not_continue_an_unfinished_one(root, tmp_path, monkeypatch):
    with interrupted_before_the_manifest(monkeypatch):
        prepare_acdc(root, tmp_path / "out")
    with pytest.raises(PrepareError, match="other settings"):
        prepare_acdc(root, tmp_path / "out", frames="3")


def test_the_slower_of_two_runs_is_refused_where_its_settings_differ(root, tmp_path, monkeypatch):
    is_begun, first_answers = PrepareSpec.is_begun, [False]
    spec = PrepareSpec(Acdc(root), tmp_path / "out", "acdc", Grid(1.5, 16))
    assemble.prepare_shard(spec, (1, 2), workers=1, progress=False)
    monkeypatch.setattr(PrepareSpec, "is_begun", lambda self: first_answers.pop() if first_answers else is_begun(self))
    with pytest.raises(PrepareError, match="unfinished run with other settings"):
        assemble.prepare_shard(dataclasses.replace(spec, grid=Grid(1.5, 8)), (2, 2), workers=1)
