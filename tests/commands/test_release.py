"""`morphojax export` to a folder: it loads as the run does, and names no path and no subject."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import morphojax
from morphojax import evaluate, export
from morphojax.commands.release import without_paths
from morphojax.train import portable
from morphojax.train.checkpoint import CheckpointError
from tests.toy_run import toy_image, toy_label

AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])


@pytest.fixture(scope="module")
def released(segmented: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "model"
    assert export.main([f"--run={segmented}", f"--output={folder}", "--checkpoint=last"]) == 0
    return folder


def test_a_released_model_gives_the_masks_of_its_run(segmented: Path, released: Path) -> None:
    image = toy_image(toy_label((40, 36, 5)))
    expected = morphojax.load(segmented, "last").segment(image, AFFINE)
    np.testing.assert_array_equal(morphojax.load(released).segment(image, AFFINE), expected)
    np.testing.assert_array_equal(
        morphojax.load(released).embed(image, AFFINE), morphojax.load(segmented, "last").embed(image, AFFINE)
    )


def test_nothing_of_the_machine_or_the_subjects_is_in_it(segmented: Path, released: Path) -> None:
    names = {path.relative_to(released).as_posix() for path in released.rglob("*") if path.is_file()}
    steps = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert names - {"sizes.json"} == {
        "README.md", "config.json", "environment.json", "preprocessing.json",
        *(f"checkpoints/{step}/{name}" for step in steps for name in (portable.NAME, "digests.json")),
    }  # fmt: skip
    for path in released.rglob("*"):
        assert not path.is_file() or str(segmented.parent).encode() not in path.read_bytes()
    card = (released / "README.md").read_text()
    assert "segments lv cavity, lv myocardium, rv cavity in sax" in card and "was not evaluated" in card


def test_a_released_model_is_evaluated_as_its_run(segmented: Path, released: Path, brightness: Path, tmp_path: Path):
    scores = []
    for number, run in enumerate((segmented, released)):
        flags = [f"--dataset={brightness}", "--split=val", "--checkpoint=last", f"--output={tmp_path / str(number)}"]
        assert evaluate.main([f"--run={run}", *flags]) == 0
        scores.append((tmp_path / str(number) / "scores_val.csv").read_bytes())
    assert scores[0] == scores[1]
    assert "First weights: random" in (tmp_path / "1" / "report_val.html").read_text()


def test_paths_and_subjects_leave_the_config() -> None:
    config = {
        "task": "segment", "workdir": "/home/me/run", "init_from": "/home/me/other", "steps": 3,
        "data": {"dataset": "/data/ukb", "subjects": ["1001"], "plane": "sax"}, "unlabelled": {"subjects": ["list.txt"]},
    }  # fmt: skip
    assert without_paths(config) == {
        "task": "segment", "workdir": "run", "init_from": "other", "steps": 3,
        "data": {"dataset": "ukb", "subjects": [], "plane": "sax"}, "unlabelled": {"subjects": []},
    }  # fmt: skip
    assert without_paths({"init_from": "", "data": {"dataset": "synthetic"}}) == {
        "init_from": "", "data": {"dataset": "synthetic"},
    }  # fmt: skip


def test_scores_of_the_run_are_in_the_card(segmented: Path, tmp_path: Path) -> None:
    run = shutil.copytree(segmented, tmp_path / "run")
    (run / "evaluation").mkdir(exist_ok=True)
    row = {"plane": "sax", "structure": "lv_cavity", "phase": "pooled", "n_subjects": 7, "dice": 0.9}
    row |= {"dice_low": 0.85, "dice_high": 0.95}
    (run / "evaluation" / "summary_test.json").write_text(json.dumps({"rows": [row, row | {"phase": "ED"}]}))
    assert export.main([f"--run={run}", f"--output={tmp_path / 'model'}"]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count("| sax | lv_cavity | 7 | 0.900 [0.850, 0.950] |") == 1


def test_what_a_release_refuses(segmented: Path, released: Path, tmp_path: Path, capsys) -> None:
    for more, message in (
        ([f"--output={released}"], "is not empty; name another folder"),
        ([f"--output={tmp_path / 'a'}", "--plane=sax"], "--plane: is for a file"),
    ):
        assert export.main([f"--run={segmented}", *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="holds one set of weights; use weights=model"):
        morphojax.load(released, weights="ema")
    damaged = shutil.copytree(released, tmp_path / "damaged")
    file = next(damaged.rglob(portable.NAME))
    file.write_bytes(file.read_bytes()[:-4] + b"else")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        morphojax.load(damaged)
