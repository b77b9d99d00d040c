"""The best, median and worst case of a study's report."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis.study import cases, scores, tables
from morphojax.inference import cases as files
from tests.analysis.study import made

CELLS = ({"labelled": ("2a",), "arm": ("scratch", "shuffled")},)


def by_hand(values, subject, structure, phase):
    """Subject 3 is the best, subject 1 the worst; seed 1 is nearest to the mean of the runs."""
    return 0.5 + {0: 0.2, 1: 0.0, 2: 0.25, 3: 0.4, 4: 0.1}[subject] + {"0": 0.06, "1": 0.03, "2": 0.0}[values["seed"]]


@pytest.fixture
def finished(tmp_path):
    """Three seeds of two arms, each with the pictures of five subjects."""
    seeds = {s: {"pretrain": {"seed": int(s)}, "segment": {"seed": int(s)}} for s in ("0", "1", "2")}
    axes = made.config(tmp_path).to_dict()["axes"] | {"seed": seeds}
    study, planned = made.study(tmp_path, axes=axes, cells=CELLS)
    for job in planned:
        made.finish(job, by_hand, subjects=5)
    return study, planned


def blocks(study, planned, gains=(("shuffled", 0.1),)):
    states = made.states(planned)
    part = next(iter(tables.parts(study, scores.read(study, planned, states))))
    compared = pd.DataFrame([{"a": a, "b": "scratch", "mean": gain} for a, gain in gains], columns=["a", "b", "mean"])
    (section,) = cases.section(study, part, compared, planned, states)
    return section.blocks


def path_of(planned, name):
    return next(job for job in planned if job.name == name).run / "evaluation" / "cases_test.npz"


def test_the_cases_are_of_the_run_nearest_to_the_mean(finished):
    note, baseline, other = blocks(*finished)
    assert "Solid line: reference; dashed line: prediction" in note.text
    assert baseline.text == "scratch: run of labelled set 2a, seed 1 (one of 3)"
    assert other.text == "shuffled: run of labelled set 2a, seed 1 (one of 3)"
    titles = re.findall(r">([^<>]*(?:subject|Dice|slice)[^<>]*)</", baseline.svg)
    assert titles == [
        "best: subject 3", "Dice 0.930, in this run 0.930", "sax ED, slice 3",
        "median: subject 0", "Dice 0.730, in this run 0.730", "sax ED, slice 0",
        "worst: subject 1", "Dice 0.530, in this run 0.530", "sax ED, slice 1",
    ]  # fmt: skip
    assert baseline.svg.count("data:image/png;base64,") == 3
    assert baseline.svg.count("stroke-dasharray") == 2 * (3 * 2 + 1)  # an outline and its edge: cavity and wall; legend


def test_a_run_without_pictures_is_not_chosen(finished):
    path_of(finished[1], "scratch_2a_1").unlink()
    assert blocks(*finished)[1].text == "scratch: run of labelled set 2a, seed 0 (one of 3)"


def test_an_arm_without_pictures_has_a_sentence(finished):
    for seed in range(3):
        path_of(finished[1], f"shuffled_2a_{seed}").unlink()
    assert blocks(*finished)[2].text == (
        "shuffled: no pictures. An earlier version scored its runs and wrote no cases_test.npz."
    )
    for seed in range(3):
        path_of(finished[1], f"scratch_2a_{seed}").unlink()
    assert [block.kind for block in blocks(*finished)] == ["text", "text"]


@pytest.mark.parametrize("content", [b"", b"no zip", "half", "other"])
def test_damaged_pictures_are_a_sentence_and_no_error(finished, content):
    path = path_of(finished[1], "scratch_2a_1")
    whole = path.read_bytes()
    if content == "other":
        with path.open("wb") as file:
            np.savez(file, subject=np.arange(5))
    else:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    found = blocks(*finished)[1]
    assert found.text.startswith(f"scratch: no pictures. {path}: not a file of cases (")
    assert "\n" not in found.text


def test_pictures_of_other_subjects_are_not_taken(finished):
    path = path_of(finished[1], "scratch_2a_1")
    path.write_bytes(files.encode([files.Case(9, "sax", "ED", 0, np.zeros((3, 4, 4), np.uint8))]))
    assert blocks(*finished)[1].text == f"scratch: no pictures. {path} holds none of the subjects that were scored."


def test_the_best_arm_has_the_largest_paired_difference(finished):
    study = finished[0]
    table = pd.DataFrame(
        [
            ("shuffled", "scratch", 0.01), ("pretrained", "scratch", 0.02), ("pretrained", "scratch", 0.9),
            ("pretrained", "shuffled", 0.5), ("other", "scratch", np.nan),
        ],
        columns=["a", "b", "mean"],
    )  # fmt: skip
    assert cases.best(study, table) == "pretrained"
    assert cases.best(study, table[table["mean"] != 0.02].iloc[:1]) == "shuffled"
    assert cases.best(study, table.iloc[4:]) is None and cases.best(study, None) is None
