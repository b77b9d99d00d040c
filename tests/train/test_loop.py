import dataclasses
import json
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from morphojax.train import checkpoint, devices, loop
from morphojax.train.ema import constant_decay
from morphojax.train.task import TrainingError
from tests.train import toy
from tests.train.toy import Batches, task


def fit(run: Path, made, **every) -> bool:
    return loop.fit(
        made,
        run=run,
        mesh=devices.make_mesh(),
        **({"log_every": 2, "eval_every": 4, "save_every": 3, "images_every": 5} | every),
    )


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, which: str = "last", kind: str = "model") -> float:
    return checkpoint.load_variables(run, which, kind)["params"]["tower"]["w"].item()


def test_a_monitor_reads_every_step_in_order_and_can_stop_the_run(tmp_path: Path) -> None:
    read = []

    def monitor(step: int, metrics) -> None:
        read.append((step, set(metrics)))
        if step == 6:
            raise TrainingError("this is enough")

    with pytest.raises(TrainingError, match="this is enough"):
        fit(tmp_path, dataclasses.replace(task(11, Batches()), monitor=monitor))
    assert [step for step, _ in read] == list(range(7)) and all("loss" in names for _, names in read)
    assert checkpoint.Checkpoints(tmp_path).last == 6


def test_the_monitor_of_a_resumed_run_reads_what_was_logged_before(tmp_path: Path) -> None:
    def read(steps: int) -> list[int]:
        seen: list[int] = []
        made = dataclasses.replace(task(steps, Batches()), monitor=lambda step, metrics: seen.append(step))
        fit(tmp_path, made, log_every=1)
        return seen

    assert read(4) == [0, 1, 2, 3]
    assert sorted(set(read(6))) == [0, 1, 2, 3, 4, 5]


def test_stopped_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    """EMA weights included."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    (whole).mkdir(), (parts).mkdir()

    def task(steps: int, batches: Batches):
        return toy.task(steps, batches, ema_decay=constant_decay(0.9))

    assert fit(whole, task(11, Batches()))

    class Stopping(Batches):
        def __next__(self):
            if self.next == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    first = Stopping()
    assert not fit(parts, task(11, first)), "a signal must be reported as a stop"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "a run leaves the handlers as it found them"
    assert first.taken == [0, 1, 2, 3, 4, 5], "the batch under way is finished, no further one is begun"
    second = Batches()
    assert fit(parts, task(11, second))
    assert second.taken == [6, 7, 8, 9, 10]
    assert weights(whole) == weights(parts) and weights(whole, kind="ema") == weights(parts, kind="ema")
    assert weights(whole, kind="ema") != weights(whole)
    # The same log too, apart from the rate of work.
    train = [{k: v for k, v in line.items() if "per_second" not in k} for line in lines(whole) if "val/error" in line]
    again = [{k: v for k, v in line.items() if "per_second" not in k} for line in lines(parts) if "val/error" in line]
    assert train == again


def test_a_stage_begins_at_its_step(tmp_path: Path) -> None:
    made = task(4, Batches())
    ((_, step),) = made.stages

    def stage(number: float):
        def marked(*arguments):
            state, metrics = step(*arguments)
            return state, metrics | {"stage": jax.numpy.float32(number)}

        return marked

    fit(tmp_path, dataclasses.replace(made, stages=((0, stage(0.0)), (2, stage(1.0)))), log_every=1)
    stages = {line["step"]: line["train/stage"] for line in lines(tmp_path) if "train/stage" in line}
    assert stages == {1: 0, 2: 0, 3: 1, 4: 1}


def test_finished_run_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, task(4, Batches()))
    before = lines(tmp_path)
    batches = Batches()
    monkeypatch.setattr(loop, "_begin", lambda *arguments: pytest.fail("nothing is compiled or restored"))
    assert fit(tmp_path, task(4, batches))
    assert batches.taken == [] and lines(tmp_path) == before


def test_pictures_are_drawn_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(loop.Logger, "images", lambda self, step, images: drawn.append((step, sorted(images))))
    batches = Batches()
    fit(tmp_path, task(7, batches))
    assert drawn == [(0, ["x"]), (5, ["x"]), (7, ["x"])]
    assert batches.taken == list(range(7)), "the last pictures need no batch of their own"
    fit(tmp_path, task(7, Batches()))
    assert len(drawn) == 3


def test_dynamics_are_measured_before_the_step_they_are_logged_at_and_at_the_end(tmp_path: Path) -> None:
    made = dataclasses.replace(
        task(7, Batches()), diagnose_every=3, diagnose=lambda state, constants, batch: {"w": state.params["tower"]["w"]}
    )
    fit(tmp_path, made)
    logged = {line["step"]: line["dynamics/w"] for line in lines(tmp_path) if "dynamics/w" in line}
    assert list(logged) == [0, 3, 6, 7]
    assert logged[0] == 3.0 and logged[7] == pytest.approx(weights(tmp_path))


def test_variables_are_loaded_with_all_their_collections(tmp_path: Path) -> None:
    fit(tmp_path, task(7, Batches(), ema_decay=constant_decay(0.9)))
    for kind in ("model", "ema"):
        loaded = checkpoint.load_variables(tmp_path, "last", kind)
        assert set(loaded) == {"params", "batch_stats"} and int(loaded["batch_stats"]["count"]) == 7


def test_resume_drops_the_lines_that_it_will_write_again(tmp_path: Path) -> None:
    fit(tmp_path, task(6, Batches()))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 99, "train/loss": 1.0}) + "\n" + '{"step": 7, "tra')
    fit(tmp_path, task(8, Batches()))
    assert max(line["step"] for line in lines(tmp_path)) == 8


def test_a_resumed_run_does_not_evaluate_its_checkpoint_again(tmp_path: Path) -> None:
    fit(tmp_path, task(4, Batches()))
    fit(tmp_path, task(8, Batches()))
    assert [line["step"] for line in lines(tmp_path) if "val/error" in line] == [4, 8]


def test_best_and_last_are_kept(tmp_path: Path) -> None:
    # The weight falls from 3 through 0.5 and on: the best is on the way, the last at the end.
    fit(tmp_path, task(60, Batches(), learning_rate=0.1), eval_every=10, save_every=10)
    errors = {line["step"]: line["val/error"] for line in lines(tmp_path) if "val/error" in line}
    best = min(errors, key=errors.__getitem__)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {best, 50, 60} and best not in (50, 60)
    assert checkpoint.find(tmp_path, "best").name == str(best)
    assert checkpoint.find(tmp_path, "last").name == "60"


def test_logged_loss_is_the_mean_of_its_steps(tmp_path: Path) -> None:
    fit(tmp_path, task(4, Batches()), log_every=1)
    fine = {line["step"]: line["train/loss"] for line in lines(tmp_path) if "train/loss" in line}
    coarse_run = tmp_path / "coarse"
    coarse_run.mkdir()
    fit(coarse_run, task(4, Batches()), log_every=2)
    coarse = {line["step"]: line["train/loss"] for line in lines(coarse_run) if "train/loss" in line}
    assert sorted(fine) == [1, 2, 3, 4]
    assert coarse[1] == pytest.approx(fine[1])  # one step late: the step before the one just dispatched
    assert coarse[3] == pytest.approx((fine[2] + fine[3]) / 2)


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 7, .*\[70, 71, 72, 73\]"):
        fit(tmp_path, task(20, Batches(poison=(7,))))
    assert np.isfinite(weights(tmp_path))
    assert checkpoint.find(tmp_path, "last").name == "6"


def replaced(made, **change):
    """The toy task whose step also changes the metrics or the state that it returns."""
    (_, step), *_ = made.stages

    def changed(state, constants, batch):
        new, metrics = step(state, constants, batch)
        return new.replace(**change.get("state", lambda _: {})(new)), metrics | change.get("metrics", {})

    return dataclasses.replace(made, stages=((0, changed),))


def test_a_full_disk_is_told_by_the_checkpoint_not_by_the_log(tmp_path: Path, monkeypatch) -> None:
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("morphojax.train.tensorboard.Events.close", full)
    monkeypatch.setattr(checkpoint.digests, "write", full)
    with pytest.raises(checkpoint.CheckpointError, match="could not be written"):
        fit(tmp_path, task(20, Batches()), save_every=1)


def test_exploded_weights_leave_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"became inf at step 1, .*No checkpoint was saved before"):
        fit(tmp_path, task(20, Batches(), learning_rate=1e38), save_every=1)
    assert checkpoint.Checkpoints(tmp_path).last is None


def test_the_checkpoint_whose_weights_gave_nan_is_removed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"at step 7, .*The checkpoint of step 6 is kept"):
        fit(tmp_path, task(20, Batches(poison=(7,))), save_every=1, eval_every=20)
    assert checkpoint.Checkpoints(tmp_path).last == 6


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    made = replaced(task(20, Batches()), metrics={"grad_norm/tower": np.float32(np.inf)})
    with pytest.raises(TrainingError, match="grad_norm/tower became inf at step 0"):
        fit(tmp_path, made)


@pytest.mark.parametrize("part", ["params", "ema", "opt_state"])
def test_a_state_of_nan_is_never_saved(tmp_path: Path, part: str) -> None:
    """Where the loss stays finite, as that of normalised embeddings does."""

    def spoil(state):
        broken = jax.tree.map(lambda a: a * np.nan if a.dtype == np.float32 else a, getattr(state, part))
        return {
            part: jax.tree.map(lambda bad, a: jax.numpy.where(state.step > 4, bad, a), broken, getattr(state, part))
        }

    def loss_of_constants(made):
        finite = {"loss": np.float32(1), "grad_norm/tower": np.float32(1)}
        return dataclasses.replace(replaced(made, metrics=finite, state=spoil), validation_batches=None)

    with pytest.raises(TrainingError, match=r"not finite after step 5, .*step 3 is kept") as caught:
        fit(tmp_path, loss_of_constants(task(20, Batches(), ema_decay=constant_decay(0.9))))
    assert f".{part}" in str(caught.value)
    assert checkpoint.Checkpoints(tmp_path).last == 3


def test_a_validation_of_nan_stops_the_run(tmp_path: Path) -> None:
    made = dataclasses.replace(task(20, Batches()), summarise=lambda outputs: {"error": float("nan")})
    with pytest.raises(TrainingError, match=r"the validation gave error = nan at step 4. The checkpoint of step 3"):
        fit(tmp_path, made)


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    fit(tmp_path, task(4, Batches()))
    other = task(8, Batches())
    init = other.init
    changed = dataclasses.replace(
        other, init=lambda p: init(p).replace(collections={"batch_stats": {"count": jax.numpy.zeros(3)}})
    )
    with pytest.raises(
        checkpoint.CheckpointError, match=r"batch_stats/count: \(\) in the checkpoint, \(3,\) in the model"
    ):
        fit(tmp_path, changed)
    without = dataclasses.replace(other, init=lambda p: init(p).replace(collections={}))
    with pytest.raises(
        checkpoint.CheckpointError, match=r"1 differences, first: not in the model: .*batch_stats/count"
    ):
        fit(tmp_path, without)


def test_a_checkpoint_without_the_fields_of_today_is_of_an_older_version(tmp_path: Path, monkeypatch) -> None:
    fit(tmp_path, task(4, Batches()))
    stored = Mock(metadata={"state": {"params": {}}})
    monkeypatch.setattr(checkpoint.ocp, "checkpointables_metadata", lambda path: stored)
    with pytest.raises(checkpoint.CheckpointError, match=r"older version of morphojax; use another config.workdir"):
        fit(tmp_path, task(8, Batches()))


@pytest.mark.parametrize("missing", ["params", "collections", "ema"])
def test_a_checkpoint_that_lacks_a_field_is_named(tmp_path: Path, monkeypatch, missing: str) -> None:
    fit(tmp_path, task(4, Batches()))
    load = checkpoint.ocp.load_checkpointables

    def lacking(*arguments):
        state = load(*arguments)["state"]
        return {"state": {name: value for name, value in state.items() if name != missing}}

    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", lacking)
    with pytest.raises(checkpoint.CheckpointError, match="damaged, or written by an older version of morphojax"):
        weights(tmp_path)


def test_ema_weights_are_validated_beside_the_model(tmp_path: Path) -> None:
    fit(tmp_path, task(8, Batches(), ema_decay=constant_decay(0.9)))
    last = next(line for line in lines(tmp_path) if line["step"] == 8 and "val_ema/error" in line)
    assert last["val_ema/error"] == pytest.approx(abs(weights(tmp_path, kind="ema") - 0.5), rel=1e-5)
    own = next(line for line in lines(tmp_path) if line["step"] == 8 and "val/error" in line)
    assert own["val/error"] == pytest.approx(abs(weights(tmp_path) - 0.5), rel=1e-5)


def test_ema_weights_that_a_run_does_not_keep_are_told(tmp_path: Path) -> None:
    fit(tmp_path, task(2, Batches()))
    with pytest.raises(checkpoint.CheckpointError, match=r"holds no EMA weights; train with config.ema.decay above 0"):
        checkpoint.load_variables(tmp_path, "last", "ema")
    with pytest.raises(ValueError, match="weights='mean' is unknown: choose model or ema"):
        checkpoint.load_variables(tmp_path, "last", "mean")


class Killed(BaseException):
    """Nothing in the loop may catch it."""


def diagnosed():
    """A task of four steps that logs dynamics too."""
    spread = {"diagnose": lambda state, constants, batch: {"spread": batch["x"].std()}, "diagnose_every": 2}
    return dataclasses.replace(task(4, Batches()), **spread)


EVERY = {"log_every": 1, "save_every": 1, "eval_every": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    fit(run, diagnosed(), **EVERY)
    return run


@pytest.mark.parametrize(("after", "step"), [("save", 2), ("diagnose", 2), ("diagnose", 4), ("save", 4)])
def test_a_killed_run_logs_every_line_once(
    after: str, step: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = loop.Checkpoints if after == "save" else loop._Session
    own = getattr(place, after)

    def killed(self, at, *arguments):
        own(self, at, *arguments)
        if at == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(place, after, killed)
        fit(tmp_path, diagnosed(), **EVERY)
    assert fit(tmp_path, diagnosed(), **EVERY)
    logs = [[{k: v for k, v in x.items() if "per_second" not in k} for x in lines(r)] for r in (undisturbed, tmp_path)]
    assert logs[0] == logs[1] and weights(undisturbed) == weights(tmp_path)
