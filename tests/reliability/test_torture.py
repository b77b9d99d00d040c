"""The comparisons of the torture find what they must find; the whole is tried in small."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.study import made
from tests.reliability import compare, damage, starting
from tests.reliability.commands import Place
from tests.reliability.ledger import EQUAL, LOST, Ledger
from tests.reliability.torture import spread
from tests.train.test_loop import fit
from tests.train.toy import Batches, task


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of the toy task, and a score table."""
    run = tmp_path_factory.mktemp("runs") / "run"
    fit(run, task(4, Batches()), save_every=1)
    (run / "scores.csv").write_text("dice\n0.5\n")
    return run


def test_equal_runs_are_equal_and_their_times_do_not_count(run: Path, tmp_path: Path) -> None:
    fit(tmp_path / "again", task(4, Batches()), save_every=1)
    shutil.copy(run / "scores.csv", tmp_path / "again")
    assert compare.differences(compare.left(tmp_path / "again"), compare.left(run)) == []


def test_a_change_of_anything_is_found(run: Path, tmp_path: Path) -> None:
    """An array of a checkpoint, the position of its iterator, a row, a table, one file more, ..."""
    expected = compare.left(run)

    def changed(change) -> list[str]:
        copy = shutil.copytree(run, tmp_path / change.__name__)
        change(copy)
        return compare.differences(compare.left(copy), expected)

    def array(copy):
        shutil.rmtree(copy / "checkpoints")
        fit(copy, task(4, Batches(), learning_rate=0.10001), save_every=1)

    def iterator(copy):
        path = copy / "checkpoints/4/_CHECKPOINT_METADATA"
        path.write_text(path.read_text().replace('{\\"next\\": 4}', '{\\"next\\": 5}'))
        (copy / "checkpoints/4/digests.json").unlink()

    def row(copy):
        path = copy / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["train/loss"] = float(np.nextafter(rows[0]["train/loss"], 9))
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))

    def table(copy):
        (copy / "scores.csv").write_text("dice\n0.6\n")

    def more(copy):
        (copy / "more.csv").write_text("")

    def less(copy):
        shutil.rmtree(copy / "checkpoints/4")

    assert any(line.startswith("checkpoints/4 params.tower.w/") for line in changed(array))
    assert changed(iterator) == ["checkpoints/4 iterator: differs"]
    assert changed(row) == ["metrics.jsonl:1 train: differs"]
    assert changed(table) == ["scores.csv: differs"] and changed(more) == ["more.csv: unexpected"]
    assert all(line.startswith("checkpoints/4 ") and line.endswith("absent") for line in changed(less))


def test_a_half_result_is_found_and_an_unfinished_one_is_none(run: Path, tmp_path: Path) -> None:
    every = compare.left(run)
    unfinished = {k: v for k, v in every.items() if not k.startswith("checkpoints/4 ")}
    assert compare.half(unfinished, every, "run") == []
    torn = {k: v for k, v in every.items() if k != "checkpoints/4 iterator"}
    assert compare.half(torn, every, "run") == ["checkpoints/4 iterator: absent"]
    assert compare.half({"scores.csv": "half"}, every, "scores") == ["scores.csv: differs"]
    assert compare.half({"table.csv": "a"}, {"table.csv": "b", "dataset.json": "c"}, "dataset") == []
    assert compare.half({"table.csv": "a", "dataset.json": "c"}, {"table.csv": "b", "dataset.json": "c"}, "dataset")


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damage_changes_a_file_and_the_same_draw_gives_the_same(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "1.json", tmp_path / "2.json"
    left = []
    for _ in range(2):
        path.write_text("one"), other.write_text("two")
        damage.apply(kind, path, np.random.default_rng(3), [other])
        left.append((path.read_bytes() if path.exists() else None, other.read_bytes()))
    assert left[0] == left[1] != (b"one", b"two")


def test_how_a_command_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    named = starting.run(["morphojax.evaluate", f"--run={tmp_path}"], log, fresh=True, kill_after=0.01)
    assert named.killed and named.named_error is None
    failed = starting.run(["tests.no_such_module"], log, fresh=True)
    assert failed.code == 1 and failed.named_error is None
    assert starting.Ended(2, 0.0, "bar\rerror: no room\n\n").named_error == "error: no room"
    assert starting.Ended(0, 0.0, "error: no room").named_error is None
    assert starting.Ended(2, 0.0, "error: no room\nmore").named_error is None


def test_a_lost_case_is_kept(tmp_path: Path, capsys) -> None:
    place = Place(tmp_path)
    place.out.mkdir(parents=True)
    (place.out / "half.csv").write_text("1")
    place.log.write_text("said")
    ledger = Ledger(place)
    ledger.add("kill", "segment", EQUAL, events=2)
    assert ledger.lost == 0
    ledger.add("kill", "segment", LOST, why="half.csv: differs")
    (kept,) = (tmp_path / "lost").iterdir()
    assert {p.name for p in kept.rglob("*")} == {"out", "half.csv", "log", "why"} and ledger.lost == 1
    assert "| kill | segment | 3 | 2 | 1 | 0 | 0 | 1 |" in ledger.table()
    assert dict(spread(5, ["a", "b", "c"])) == {"a": 2, "b": 2, "c": 1}


@pytest.mark.slow
def test_a_small_torture_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.reliability.torture", "--kills=3", "--full=2", "--corruptions=5"]
    ended = subprocess.run(
        [*command, f"--folder={tmp_path / 'torture'}"],
        cwd=starting.ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]


def test_of_a_study_only_what_its_records_call_done_must_be_whole(tmp_path: Path) -> None:
    cells = ({"arm": ("scratch",), "labelled": ("1a",)},)
    _, planned = made.study(tmp_path / "whole", cells=cells)
    for job in planned:
        made.finish(job)
    expected = compare.left(tmp_path / "whole")
    _, planned = made.study(tmp_path / "other", cells=cells)
    made.finish(planned[0], seconds=9.0)
    planned[1].run.mkdir()
    (planned[1].run / "study.json").write_text((planned[0].run / "study.json").read_text())
    record = json.loads((planned[1].run / "study.json").read_text())
    (planned[1].run / "study.json").write_text(json.dumps(record | {"results": {}}))
    assert compare.half(compare.left(tmp_path / "other"), _renamed(expected), "study") == []
    scores = planned[0].run / "evaluation" / "scores_test.csv"
    scores.write_text(scores.read_text().replace("0.7", "0.6"))
    name = "cells/scratch_1a_0/evaluation/scores_test.csv"
    assert compare.half(compare.left(tmp_path / "other"), _renamed(expected), "study") == [f"{name}: differs"]
    scores.unlink()
    assert compare.half(compare.left(tmp_path / "other"), _renamed(expected), "study") == [f"{name}: absent"]


def _renamed(left: compare.Left) -> compare.Left:
    """As if made in the folder `other`: commands name the folder of the study."""
    return json.loads(json.dumps(left).replace("/whole/", "/other/"))
