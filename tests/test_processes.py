"""A run of several processes: the same numbers as one, and an end when one of them is lost."""

import shutil
import subprocess
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from morphojax import exit_codes, main
from morphojax.tasks import experiment
from morphojax.train import checkpoint, processes
from tests.processes import arguments, devices, finish, logged, make_dataset, start, start_two

# See tests/test_main.py for the small learning rate.
SETTINGS = {"batch_size": 4, "steps": 9, "eval_every": 3, "save_every": 1, "keep_checkpoints": 9}
SETTINGS |= {"optimizer.learning_rate": 1e-4, "ema.decay": 0.9}
FAULT_STEP = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cohort"), tmp_path_factory.mktemp("prepared") / "dataset")


def command(dataset: Path, run: Path) -> list[str]:
    return arguments("pretrain_sax", dataset, run, SETTINGS)


@pytest.fixture(scope="module")
def of_two(dataset: Path, tmp_path_factory) -> Path:
    """A run of two processes with two devices each, in a folder that both see."""
    run = tmp_path_factory.mktemp("runs") / "two"
    for process in start_two(command(dataset, run)):
        finish(process)
    return run


@pytest.fixture(scope="module")
def of_one(dataset: Path, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "one"
    finish(start(*command(dataset, run)))
    return run


def assert_close(run: Path, expected: Path) -> None:
    """Losses, validation losses of the model and of its EMA weights, and both weights."""
    for name in ("train/loss", "val/loss", "val_ema/loss"):
        assert logged(expected, name)
        np.testing.assert_allclose(logged(run, name), logged(expected, name), atol=1e-5, err_msg=name)
    for weights in checkpoint.WEIGHTS:
        pair = (checkpoint.load_variables(folder, "last", weights) for folder in (run, expected))
        # Adam divides by the gradient's size: where a gradient is rounding error, its sign is
        # random, and a weight can be wrong by twice the learning rate in every step.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * SETTINGS["steps"]), *pair)


def assert_equal(run: Path, expected: Path) -> None:
    assert logged(run) == logged(expected)
    for weights in checkpoint.WEIGHTS:
        pair = (checkpoint.load_variables(folder, "last", weights) for folder in (run, expected))
        jax.tree.map(np.testing.assert_array_equal, *pair)


@pytest.mark.slow  # tests/objectives/test_cases.py compares one device with four in the default run
def test_two_processes_give_what_one_gives(of_one: Path, of_two: Path) -> None:
    assert_close(of_two, of_one)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_one_process_continues_what_two_began(count: int, dataset: Path, of_two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(of_two, run)
    for step in range(4, SETTINGS["steps"] + 1):
        shutil.rmtree(run / "checkpoints" / str(step))
    output = finish(start(*command(dataset, run), XLA_FLAGS=devices(count)))
    assert "resumed at step 3" in output and "damaged" not in output
    assert_close(run, of_two)


@pytest.mark.slow
def test_two_processes_continue_what_one_began(dataset: Path, of_one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(of_one, run)
    for step in range(4, SETTINGS["steps"] + 1):
        shutil.rmtree(run / "checkpoints" / str(step))
    outputs = [finish(process) for process in start_two(command(dataset, run))]
    assert "resumed at step 3" in outputs[0]
    assert_close(run, of_one)


def ended(process: subprocess.Popen[str], seconds: float) -> str:
    """What a process printed that must end within `seconds`."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"hangs; it printed {process.communicate()[0][-2000:]}") from None


GONE = ("another process of the run is gone", "another task died")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("fault", ["kill", "kill_in_step", "stop", "raise", "disk_full"])
def test_a_lost_process_ends_the_other_within_a_minute(
    fault: str, victim: int, dataset: Path, of_two: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    faulty = {victim: {"FAULT": fault, "FAULT_STEP": str(FAULT_STEP)}}
    pair = start_two(command(dataset, run), faulty)
    deadline = time.monotonic() + 200
    while fault != "stop" and pair[victim].poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while fault == "stop" and not (run / "checkpoints" / str(FAULT_STEP)).is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    output = ended(pair[1 - victim], 60)
    assert pair[1 - victim].returncode not in (exit_codes.COMPLETE, exit_codes.REFUSED, exit_codes.STOPPED)
    assert any(words in output for words in GONE), output[-3000:]
    pair[victim].kill()
    said = pair[victim].communicate()[0]
    if fault == "disk_full":
        assert pair[victim].returncode == exit_codes.REFUSED
        assert f"{run}/checkpoints: could not be written" in said.splitlines()[-1]
    resumed = [finish(process) for process in start_two(command(dataset, run))]
    assert "resumed at step" in resumed[0] and "damaged" not in resumed[0]
    assert_equal(run, of_two)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_a_save(dataset: Path, of_two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for process in start_two(command(dataset, run), {1: {"FAULT": "terminate", "FAULT_STEP": str(FAULT_STEP)}}):
        finish(process, exit_codes.STOPPED)
    for process in start_two(command(dataset, run)):
        finish(process)
    assert_equal(run, of_two)


@pytest.mark.slow  # longer than gloo waits, by its default, for the other end of a collective
def test_a_slow_save_ends_nobody(dataset: Path, of_two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = {"FAULT": "slow", "FAULT_STEP": str(FAULT_STEP), "FAULT_SECONDS": "75"}
    for process in start_two(command(dataset, run), {0: slow}):
        finish(process)
    assert_equal(run, of_two)


CASES = {
    "complete": (lambda config: True, exit_codes.COMPLETE),
    "stopped by a signal": (lambda config: False, exit_codes.STOPPED),
    "refused": (mock.Mock(side_effect=ValueError("config.steps=-1")), exit_codes.REFUSED),
    "another is gone": (mock.Mock(side_effect=ValueError("Gloo AllReduce failed: Connection")), exit_codes.FAILED),
    "unexpected": (mock.Mock(side_effect=AssertionError), exit_codes.FAILED),
}


@pytest.mark.parametrize("case", CASES)
def test_exit_codes_and_who_waits_at_the_barrier(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error, a process leaves at once and does not wait for the others."""
    run, code = CASES[case]
    left = mock.Mock(side_effect=SystemExit)
    for target, name, value in (
        (experiment, "run", run),
        (processes, "join", mock.Mock()),
        (processes, "leave", left),
        (jax, "process_count", lambda: 2),
    ):
        monkeypatch.setattr(target, name, value)
    command_line = ["--config=segment_sax", "--distributed"]
    if code in (exit_codes.COMPLETE, exit_codes.STOPPED):
        assert main.main(command_line) == code
        left.assert_not_called()
    else:
        with pytest.raises(SystemExit):
            main.main(command_line)
        left.assert_called_once_with(code)


def test_leaving_waits_for_nobody_even_where_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = mock.Mock(side_effect=SystemExit)
    full = mock.Mock(flush=mock.Mock(side_effect=OSError(28, "No space left on device")))
    monkeypatch.setattr(processes.os, "_exit", ended)
    monkeypatch.setattr(processes.sys, "stdout", full)
    monkeypatch.setattr(processes, "_LAST_WORDS_SECONDS", 0)
    with pytest.raises(SystemExit):
        processes.leave(2)
    ended.assert_called_once_with(2)
