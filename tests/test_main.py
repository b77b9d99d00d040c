"""The whole program, as people run it: commands, on a tiny cohort on disk."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from morphojax.data.geometry import Grid
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.acdc import Acdc
from morphojax.train import checkpoint
from tests.data import cohorts
from tests.data.preparing import prepare

ROOT = Path(__file__).parents[1]
TINY = {
    "batch_size": 4,
    "log_every": 1,
    "images_every": 100,
    "model.width": 8,
    "model.encoder": "resnet18",
}
# A small learning rate: rounding differs with the number of devices, and Adam's first steps magnify it; what the losses are compared
# for (whose negatives, whose batch statistics) shows at the first step already.
PRETRAIN = (
    TINY
    | {"optimizer.learning_rate": 1e-4}
    | {
        "steps": 6,
        "epochs": 0,
        "input.slices": 2,
        "model.table.mlp.hidden_units": 16,
        "eval_every": 3,
        "save_every": 1,
    }
)
SEGMENT = TINY | {
    "steps": 4,
    "model.decoder_widths": "(4,8,8,8)",
    "eval_every": 2,
    "save_every": 2,
    "data.fraction": 1.0,
}


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


def command(config: str, dataset: Path, run: Path, settings: dict, *flags: str) -> list[str]:
    keys = {"data.dataset": dataset, "workdir": run} | settings
    return [
        sys.executable, "-m", "morphojax.main", f"--config=configs/{config}.py",
        *[f"--config.{key}={value}" for key, value in keys.items()], *flags,
    ]  # fmt: skip


def environment(devices: int = 1) -> dict[str, str]:
    return os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}


def train(*args, devices: int = 1, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*args), cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def assert_same_bits(a: Path, b: Path) -> None:
    whole, other = (checkpoint.load_params(run, "last") for run in (a, b))
    jax.tree.map(np.testing.assert_array_equal, whole, other)


@pytest.fixture(scope="module")
def pretrained(dataset: Path, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pretrain"
    train("pretrain_sax", dataset, run, PRETRAIN)
    return run


def test_killed_and_resumed_equals_never_killed_bit_for_bit(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    for point in (1, 4):
        process = subprocess.Popen(
            command("pretrain_sax", dataset, run, PRETRAIN), cwd=ROOT, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 200
        while not any((run / "checkpoints" / str(n)).is_dir() for n in range(point, 7)):
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    train("pretrain_sax", dataset, run, PRETRAIN)
    assert_same_bits(pretrained, run)
    assert losses(run) == losses(pretrained)


def test_four_devices_give_the_losses_of_one(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    train("pretrain_sax", dataset, tmp_path / "run", PRETRAIN, devices=4)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(pretrained), atol=1e-5)


def test_two_processes_give_the_losses_of_one(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Programs with collectives between processes abort when they come from the compilation cache.
    alone = environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    # A shared run directory, as on a cluster's file system.
    flags = [(f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}", "--distributed") for i in range(2)]
    both = [
        subprocess.Popen(
            command("pretrain_sax", dataset, tmp_path / "run", PRETRAIN, *f), cwd=ROOT, env=alone,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for f in flags
    ]  # fmt: skip
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(pretrained), atol=1e-5)


def test_segment_from_the_pretrained_encoder_and_score_it(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "segment"
    done = train("segment_sax", dataset, run, SEGMENT | {"init_from": pretrained})
    assert "transfer from" in done.stdout and "loaded" in done.stdout and "table_encoder" in done.stdout
    scored = subprocess.run(
        [sys.executable, "-m", "morphojax.evaluate", f"--run={run}", "--split=test"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr[-3000:]
    assert (run / "evaluation" / "summary_test.json").is_file()
    # Nothing that a run says or writes holds an id, and nothing but the evaluation's scores of subjects a pseudonym.
    key, said = Pseudonyms(b"k" * 32), done.stdout + done.stderr + scored.stdout + scored.stderr
    names = [key(f"patient{n:03d}").encode() for n in range(1, 9)]
    assert "patient0" not in said and not any(name.decode() in said for name in names)
    for path in (p for folder in (run, pretrained) for p in folder.rglob("*") if p.is_file()):
        data, by_subject = path.read_bytes(), path.name in ("scores_test.csv", "measures_test.csv")
        assert b"patient0" not in data, path.name
        assert any(name in data for name in names) == by_subject, path.name


WRONG = {
    "a misspelt key": ({"modle.width": 8}, "modle"),
    "a wrong type": ({"steps": "many"}, "steps"),
    "a name that is unknown": (
        {"model.encoder": "resnet19"},
        "error: config.model.encoder='resnet19' is unknown: choose one of",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_config_has_wrong_is_told_in_a_line(case: str, dataset: Path, tmp_path: Path) -> None:
    settings, message = WRONG[case]
    done = train("segment_sax", dataset, tmp_path / "run", SEGMENT | settings, expect=2 if "unknown" in case else 1)
    assert message in done.stderr + done.stdout
