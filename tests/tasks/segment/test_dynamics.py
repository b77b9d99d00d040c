"""What a fine-tuning logs of its way from its start: in closed form, by hand, in a whole run, and
over a resume.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from morphojax.data.store.dataset import Dataset
from morphojax.tasks import experiment
from morphojax.tasks.segment import build as segment
from morphojax.train import checkpoint, loop, transfer
from morphojax.train.run import RunError, create
from tests.tasks import synthetic, tiny

DEPTHS = {"encoder/stem", "encoder/stage1", "encoder/stage2", "decoder/level0", "decoder/level1", "head"}
LEVELS = {*(f"level{i}" for i in range(1, 4)), "pooled"}


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset()


def config(data: Path, run: Path, **changes):
    settings = {"steps": 4, "eval_every": 0, "dynamics_every": 2, "save_every": 2}
    return tiny.config("segment_sax", data, run, **settings | changes)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert experiment.run(config(data, run))
    return run


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def found(run: Path) -> list[dict]:
    return [line for line in lines(run) if any(name.startswith("dynamics/") for name in line)]


def test_a_run_logs_its_way_from_step_0_to_the_last(data: Path, whole: Path) -> None:
    looked = found(whole)
    assert [line["step"] for line in looked] == [0, 2, 4]
    names = {f"dynamics/distance/{d}" for d in DEPTHS} | {f"dynamics/cka/{level}" for level in LEVELS}
    for line in looked:
        assert names == set(line) - {"step"}
    assert all(looked[0][f"dynamics/distance/{d}"] == 0 for d in DEPTHS)
    assert all(looked[0][f"dynamics/cka/{level}"] == pytest.approx(1, abs=1e-4) for level in LEVELS)
    assert all(looked[2][f"dynamics/distance/{d}"] > looked[1][f"dynamics/distance/{d}"] > 0 for d in DEPTHS)
    assert all(looked[2][f"dynamics/cka/{level}"] < looked[0][f"dynamics/cka/{level}"] for level in LEVELS)

    # The last line, from the checkpoint and the initial state.
    task, _ = segment.build(config(data, whole), Dataset.open(data))
    start, end = jax.jit(task.init)(task.pretrained).params, checkpoint.load_variables(whole, "last")["params"]
    task.train_batches.close()
    w0, w = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(p["head"])]) for p in (start, end))
    assert looked[2]["dynamics/distance/head"] == pytest.approx(np.linalg.norm(w - w0) / np.linalg.norm(w0), rel=1e-4)


def test_norms_of_gradients_by_depth_add_up_to_that_of_the_module(whole: Path) -> None:
    trained = [line for line in lines(whole) if "train/loss" in line]
    assert trained
    for line in trained:
        assert {f"train/grad_norm/{d}" for d in DEPTHS} <= set(line)
        for module in ("encoder", "decoder"):
            parts = [v for name, v in line.items() if name.startswith(f"train/grad_norm/{module}/")]
            assert np.sqrt(np.sum(np.square(parts))) == pytest.approx(line[f"train/grad_norm/{module}"], rel=1e-5)


@pytest.mark.slow
def test_a_resumed_run_remembers_its_start_bit_for_bit(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_agree", lambda asked, step, every: step == 2)
        assert not experiment.run(config(data, run))
    assert experiment.run(config(data, run))
    assert found(run) == found(whole)
    jax.tree.map(np.testing.assert_array_equal, *(checkpoint.load_variables(r, "last") for r in (run, whole)))


def test_the_same_slices_are_watched_whatever_the_batch_and_the_training_subjects_where_none_validates(
    data: Path, tmp_path: Path
) -> None:
    dataset = Dataset.open(data)

    def watched(**changes) -> np.ndarray:
        task, _ = segment.build(config(data, tmp_path, **changes), dataset)
        task.train_batches.close()
        return task.constants["reference_images"]

    held_out = watched(eval_every=2)
    assert held_out.shape == (segment.REFERENCE_SLICES, 32, 32, 1) and held_out.dtype == np.uint8
    np.testing.assert_array_equal(held_out, watched(eval_every=2, batch_size=4))
    assert (held_out != watched()).any()
    task, _ = segment.build(config(data, tmp_path, dynamics_every=0), dataset)
    task.train_batches.close()
    assert task.diagnose is None and task.reference is None and "reference_images" not in task.constants


def test_a_start_that_has_changed_is_refused_where_it_is_compared_with(whole: Path, tmp_path: Path) -> None:
    assert json.loads((whole / "start.json").read_text()) == transfer.digest({})
    a, b = ({"params/encoder/w": np.full(3, value, np.float32)} for value in (1, 2))

    def start(taken, every: int) -> None:
        made = {"init_from": "runs/other", "dynamics_every": every}
        create(tmp_path, made, {"preprocessing.json": {}, "start.json": transfer.digest(taken)})

    start(a, 0)
    (tmp_path / "checkpoints").mkdir()
    for _ in range(2):  # what a run without dynamics met in between is no excuse
        start(b, 0)
        with pytest.raises(
            RunError, match=r"config.init_from=runs/other: holds other weights.*config.dynamics_every=0"
        ):
            start(b, 2)
    start(a, 2)
    (tmp_path / "start.json").unlink()
    with pytest.raises(RunError, match=r"start.json: not found"):
        start(a, 2)


def test_a_negative_number_of_steps_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.dynamics_every=-1"):
        experiment.run(config(data, tmp_path, dynamics_every=-1))
