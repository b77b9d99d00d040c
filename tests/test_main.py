"""The whole program on a tiny cohort on disk: in this process, and as processes where the process
is what is tested.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from absl import flags, logging
from absl.testing import flagsaver

from morphojax import evaluate, main
from morphojax.data.geometry import Grid
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.acdc import Acdc
from morphojax.tasks import experiment
from morphojax.train import checkpoint
from tests.data import cohorts
from tests.data.preparing import prepare
from tests.tasks import tiny

ROOT = Path(__file__).parents[1]
# A small learning rate: rounding differs with the number of devices, and Adam's first steps magnify
# it. What the losses are compared for (whose negatives, whose batch statistics) shows at the first
# step already.
PRETRAIN = {"batch_size": 4, "steps": 6, "eval_every": 3, "save_every": 1, "optimizer.learning_rate": 1e-4}
SEGMENT = {"batch_size": 4, "steps": 4, "eval_every": 2, "save_every": 2}
COPY_PASTE = "unlabelled.objectives.copy_paste"
CALIBRATED = {"batch_size": 4, "steps": 6, "eval_every": 0, "save_every": 1, "optimizer.learning_rate": 1e-4}
CALIBRATED |= {"data.fraction": 0.2, "unlabelled.batch_size": 4, f"{COPY_PASTE}.start": 0.0, f"{COPY_PASTE}.ramp": 0.5}
# `python -m morphojax.main`, with the encoder of two blocks.
PROGRAM = "import runpy, tests.tasks.tiny; runpy.run_module('morphojax.main', run_name='__main__')"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    cohorts.acdc(root, subjects=8)
    splits = root / "splits.csv"
    rows = [f"patient{n:03d},{'train' if n <= 5 else 'val' if n == 6 else 'test'}" for n in range(1, 9)]
    splits.write_text("subject,split\n" + "\n".join(rows) + "\n")
    out = tmp_path_factory.mktemp("prepared") / "dataset"
    key = Pseudonyms(b"k" * 32)
    prepare(
        Acdc(root), out, name="acdc", grid=Grid(1.5, 32), split_file=splits, workers=1, progress=False, pseudonym=key
    )
    return out


@pytest.fixture(scope="module")
def pretrained(dataset: Path, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pretrain"
    tiny.train("pretrain_sax", dataset, run, **PRETRAIN)
    return run


def arguments(config: str, dataset: Path, run: Path, settings: dict, arm: str = "") -> list[str]:
    """The command line that says what `tiny.config` says."""
    keys = tiny.DEFAULTS[config.split("_")[0]] | {"data.dataset": dataset, "workdir": run} | settings
    return [f"--config={ROOT}/configs/{config}.py{arm}", *(f"--config.{key}={value}" for key, value in keys.items())]


def start(
    dataset: Path, run: Path, *distributed: str, command_line: list[str] | None = None, **environment: str
) -> subprocess.Popen[str]:
    """A run in a process of its own, by default pretraining."""
    command_line = command_line or arguments("pretrain_sax", dataset, run, PRETRAIN)
    command = [sys.executable, "-c", PROGRAM, *command_line, *distributed]
    merged = subprocess.STDOUT
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=merged, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def devices(count: int) -> str:
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_killed_and_resumed_equals_never_killed_bit_for_bit(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start(dataset, run)
    deadline = time.monotonic() + 200
    while not any((run / "checkpoints" / str(step)).is_dir() for step in range(2, 7)):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = tiny.train("pretrain_sax", dataset, run, **PRETRAIN)
    jax.tree.map(np.testing.assert_array_equal, resumed, checkpoint.load_variables(pretrained, "last"))
    assert losses(run) == losses(pretrained)


@pytest.mark.slow  # tests/objectives/test_cases.py compares one device with four in the default run
def test_two_processes_of_two_devices_give_the_losses_of_one(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Programs with collectives between processes abort when they come from the compilation cache.
    environment = {"XLA_FLAGS": devices(2), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    distributed = ("--distributed", f"--coordinator=127.0.0.1:{port}", "--processes=2")
    run = tmp_path / "run"  # shared by the processes, as on a cluster's file system
    for process in [start(dataset, run, *distributed, f"--process={i}", **environment) for i in range(2)]:
        finish(process)
    np.testing.assert_allclose(losses(run), losses(pretrained), atol=1e-5)


@pytest.mark.slow  # likewise
def test_four_devices_give_the_losses_of_one(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    finish(start(dataset, tmp_path / "run", XLA_FLAGS=devices(4)))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(pretrained), atol=1e-5)


@pytest.mark.slow
def test_four_devices_give_the_losses_of_calibrated_self_training(dataset: Path, tmp_path: Path) -> None:
    """Teacher, calibration, choice of slices and mixing across devices."""
    for count in (1, 4):
        run = tmp_path / str(count)
        command_line = arguments("segment_sax", dataset, run, CALIBRATED, ":calibrated")
        finish(start(dataset, run, command_line=command_line, XLA_FLAGS=devices(count)))
    np.testing.assert_allclose(losses(tmp_path / "4"), losses(tmp_path / "1"), atol=1e-5)


def test_segment_from_the_pretrained_encoder_and_score_it(
    dataset: Path, pretrained: Path, tmp_path: Path, capfd, caplog
) -> None:
    run = tmp_path / "segment"
    with caplog.at_level("INFO"):
        assert experiment.run(tiny.config("segment_sax", dataset, run, init_from=str(pretrained), **SEGMENT))
        trained = capfd.readouterr()
        assert "transfer from" in trained.out and "loaded" in trained.out and "table_encoder" in trained.out
        assert evaluate.main([f"--run={run}", "--split=test"]) == 0
    scored = capfd.readouterr()
    assert (run / "evaluation" / "summary_test.json").is_file()
    # No output and no file holds an id. Pseudonyms are in the scores by subject alone.
    key, printed = Pseudonyms(b"k" * 32), trained.out + trained.err + scored.out + scored.err + caplog.text
    pseudonyms = [key(f"patient{n:03d}").encode() for n in range(1, 9)]
    assert "patient0" not in printed and not any(name.decode() in printed for name in pseudonyms)
    for path in (p for folder in (run, pretrained) for p in folder.rglob("*") if p.is_file()):
        data, by_subject = path.read_bytes(), path.name in ("scores_test.csv", "measures_test.csv")
        assert b"patient0" not in data, path.name
        assert any(name in data for name in pseudonyms) == by_subject, path.name


@contextlib.contextmanager
def parsed(*command_line: str) -> Iterator[None]:
    """The flags of the command while it runs in this process."""
    saved, verbosity, was_parsed = flagsaver.save_flag_values(), logging.get_verbosity(), flags.FLAGS.is_parsed()
    try:
        with mock.patch.object(sys, "argv", ["main", *command_line]):  # ml_collections looks for overrides there
            flags.FLAGS(sys.argv)
        yield
    finally:
        flagsaver.restore_flag_values(saved)
        logging.set_verbosity(verbosity)
        if not was_parsed:
            flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"modle.width": 8}, "modle"), ({"steps": "many"}, "steps")],
    ids=["misspelt key", "wrong type"],
)
def test_a_flag_that_does_not_fit_the_config_is_refused(settings, message, dataset: Path, tmp_path: Path) -> None:
    command_line = arguments("segment_sax", dataset, tmp_path / "run", settings)
    with pytest.raises((flags.Error, AttributeError, KeyError), match=message), parsed(*command_line):
        pass


def test_an_error_in_a_config_is_one_line(dataset: Path, tmp_path: Path, capsys) -> None:
    settings = {"model.encoder": "resnet19"}
    with parsed(*arguments("segment_sax", dataset, tmp_path / "run", settings)):
        assert main.main(["main"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config.model.encoder='resnet19' is unknown: choose one of")
    assert len(error.splitlines()) == 1


def test_the_command_trains(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    with parsed(*arguments("pretrain_sax", dataset, tmp_path / "run", PRETRAIN)):
        assert main.main(["main"]) == 0
    assert losses(tmp_path / "run") == losses(pretrained)
