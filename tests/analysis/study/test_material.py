"""The data card of a study's report."""

import dataclasses
import functools
import json

import pandas as pd
import pytest

from analysis.study import material
from morphojax.data.geometry import Grid
from morphojax.data.store.manifest import Manifest
from morphojax.data.store.records import Shard
from morphojax.data.tables.schema import Column, Schema
from tests.analysis.study import made

FILES = ("subjects.csv", "table.csv", "sax/stacks.csv")
SCHEMA = Schema(
    (
        Column("lv_edv_ml", "continuous", "cardiac_morphometric", leak=("segmentation",)),
        Column("age", "continuous", "demographic"),
    )
)
CELLS = ({"labelled": ("2a",), "seed": ("0",)},)


def manifest(schema=SCHEMA):
    return Manifest(
        source="acdc", grid=Grid(2.0, 96), percentiles=(0.5, 99.5), planes=("sax",), labelled={"sax": made.STRUCTURES},
        schema=schema, warnings={}, counts={"subjects": {"train": 50, "val": 4, "test": 6}},
        files=tuple(Shard(name, 1, 1, "0") for name in FILES), slices={"sax": ()}, native={"sax": ()},
    )  # fmt: skip


def study_of(folder, segment=(), pretrain=(), dataset="d1"):
    """Three finished cells of a prepared dataset.

    segment, pretrain: overrides of dotted keys of all cells.
    """
    base = {}
    for stage, changes in (("segment", segment), ("pretrain", pretrain)):
        for key, value in ({"data.dataset": str(folder / "prepared")} | dict(changes)).items():
            *groups, name = (stage, *key.split("."))
            functools.reduce(lambda tree, group: tree.setdefault(group, {}), groups, base)[name] = value
    study, planned = made.study(folder, cells=CELLS, base=base)
    for job in planned:
        made.finish(job, dataset=dataset)
    return study, planned


def card(study, planned):
    long = pd.DataFrame({"metric": "dice", "labelled": "2a", "subject": range(6)})
    images, labelled, arms, notes = material.section(study, planned, made.states(planned), long).blocks
    return images.rows, labelled.rows, {row[0]: row[1:] for row in arms.rows}, list(notes.lines)


def test_a_dataset_that_is_there_gives_source_splits_and_columns(tmp_path):
    (tmp_path / "prepared").mkdir()
    manifest().write(tmp_path / "prepared")
    study, planned = study_of(tmp_path, dataset=manifest().fingerprint)
    images, labelled, arms, notes = card(study, planned)
    assert images == [
        [
            str(tmp_path / "prepared"), manifest().fingerprint, "acdc", "sax", "96 x 96 pixels of 2 mm",
            "LV cavity, LV myocardium, RV cavity", "50, 4, 6",
        ]
    ]  # fmt: skip
    assert labelled == [["2a", "2", "fraction 0.2 of split train", "6"]]
    assert arms["scratch"] == ["nothing", "none", "nothing"]
    assert arms["pretrained"][0] == "split train"
    assert "1 of 2 columns of the table were measured on masks (leak 'segmentation'): lv_edv_ml." in notes[0]
    assert notes[1:] == ["No run, and no pretraining that is still there, was trained on the test split."]


def test_a_table_without_columns_measured_on_masks_is_said(tmp_path):
    (tmp_path / "prepared").mkdir()
    own = manifest(Schema(SCHEMA.columns[1:]))
    own.write(tmp_path / "prepared")
    notes = card(*study_of(tmp_path, dataset=own.fingerprint))[3]
    assert "none of the 1 columns of the table was measured on masks" in notes[0]


def test_a_dataset_that_is_gone_or_another_is_said(tmp_path):
    study, planned = study_of(tmp_path)
    images, _, _, notes = card(study, planned)
    assert images[0][1:3] == ["d1", ""] and images[0][-1] == ""
    assert notes[0].startswith(f"Dataset {tmp_path / 'prepared'} is not there, or cannot be read: its source")
    (tmp_path / "prepared").mkdir()
    manifest().write(tmp_path / "prepared")
    notes = card(study, planned)[3]
    assert f"holds another dataset now (fingerprint {manifest().fingerprint})" in notes[0]
    assert "leak" not in " ".join(notes)


def test_the_synthetic_cohort_is_looked_up_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHOJAX_CACHE", str(tmp_path / "cache"))
    notes = card(*study_of(tmp_path, {"data.dataset": "synthetic"}))[3]
    assert notes[0].startswith("Dataset synthetic is not there") and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        (("secret_a", "secret_b"), "fraction 0.2 of 2 subjects that the config names"),
        (("secret_a",), "fraction 0.2 of one subject, or a list that is not there any more"),
        (None, "(subjects: 2)"),
        ("", ", which cannot be read"),
    ],
)
def test_subjects_are_counted_and_never_named(tmp_path, subjects, expected):
    if not isinstance(subjects, tuple):
        (tmp_path / "two.txt").write_text("subject\nsecret_a\nsecret_b\n" if subjects is None else "")
        subjects = (str(tmp_path / "two.txt"),)
    study, planned = study_of(tmp_path, {"data.subjects": subjects, "unlabelled.subjects": subjects})
    labelled = card(study, planned)[1]
    assert labelled[0][2].endswith(expected) and "secret" not in str(card(study, planned))


def test_what_an_arm_was_given_of_the_table(tmp_path):
    segment = {
        "unlabelled.batch_size": 2,
        "unlabelled.control": "mean",
        "unlabelled.objectives.volume_consistency.weight": 1.0,
    }
    study, planned = study_of(tmp_path, segment)
    by_name = {job.name: job for job in planned}
    needed = by_name["pretrained_2a_0"].needs
    (needed.run / "table.json").write_text(json.dumps({"schema": [{"name": "lv_edv_ml"}, {"name": "age"}]}))
    path = by_name["scratch_2a_0"].run / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"measures": ["age"]}))
    made.rescore(by_name["scratch_2a_0"], "positions", pd.DataFrame())  # as if written by the run itself
    arms = card(study, planned)[2]
    volumes = "fine-tuning: volumes of unlabelled subjects, control 'mean'"
    assert arms["scratch"] == ["nothing", "split train, without the labelled", f"{volumes}; also at test time: age"]
    assert arms["pretrained"][2] == f"pretraining: lv_edv_ml, age; {volumes}"
    assert arms["shuffled"][2] == f"pretraining: rows under the control 'shuffled'; {volumes}"


def test_a_damaged_or_removed_pretraining_is_said(tmp_path):
    study, planned = study_of(tmp_path)
    needed = {job.name: job for job in planned}["pretrained_2a_0"].needs
    (needed.run / "table.json").write_text("{")
    arms = card(study, planned)[2]
    assert arms["pretrained"][2].startswith(f"pretraining: not known ({needed.run / 'table.json'}: cannot be read")
    gone = [
        dataclasses.replace(job, needs=dataclasses.replace(needed, run=tmp_path / "gone")) if job.needs else job
        for job in planned
    ]
    assert card(study, gone)[2]["pretrained"][2] == "pretraining: not known, the run was removed"


@pytest.mark.parametrize("stage", ["segment", "pretrain"])
def test_runs_that_were_trained_on_test_subjects_are_named(tmp_path, stage):
    study, planned = study_of(tmp_path, **{stage: {"data.splits": ("train", "test")}})
    notes = card(study, planned)[3]
    names = "shuffled_2a_0" if stage == "segment" else "pretraining of shuffled_2a_0"
    line = next(
        line for line in notes if line.startswith("Trained on subjects of the test split, so not scores of unseen")
    )
    assert names in line and ("scratch_2a_0" in line) == (stage == "segment")
