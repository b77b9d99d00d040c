"""The whole program on a tiny cohort on disk: in this process, and as processes where the process
is what is tested.
"""

import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from morphojax import evaluate, main
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.tasks import experiment
from morphojax.train import checkpoint
from tests.processes import arguments, devices, finish, logged, make_dataset, start
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cohort"), tmp_path_factory.mktemp("prepared") / "dataset")


@pytest.fixture(scope="module")
def pretrained(dataset: Path, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pretrain"
    tiny.train("pretrain_sax", dataset, run, **PRETRAIN)
    return run


def test_killed_and_resumed_equals_never_killed_bit_for_bit(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start(*arguments("pretrain_sax", dataset, run, PRETRAIN))
    deadline = time.monotonic() + 200
    while not any((run / "checkpoints" / str(step)).is_dir() for step in range(2, 7)):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = tiny.train("pretrain_sax", dataset, run, **PRETRAIN)
    jax.tree.map(np.testing.assert_array_equal, resumed, checkpoint.load_variables(pretrained, "last"))
    assert logged(run) == logged(pretrained)


@pytest.mark.slow  # tests/objectives/test_cases.py compares one device with four in the default run
def test_four_devices_give_the_losses_of_one(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    finish(start(*arguments("pretrain_sax", dataset, tmp_path / "run", PRETRAIN), XLA_FLAGS=devices(4)))
    np.testing.assert_allclose(logged(tmp_path / "run"), logged(pretrained), atol=1e-5)


@pytest.mark.slow
def test_four_devices_give_the_losses_of_calibrated_self_training(dataset: Path, tmp_path: Path) -> None:
    """Teacher, calibration, choice of slices and mixing across devices."""
    for count in (1, 4):
        run = tmp_path / str(count)
        command_line = arguments("segment_sax", dataset, run, CALIBRATED, ":calibrated")
        finish(start(*command_line, XLA_FLAGS=devices(count)))
    np.testing.assert_allclose(logged(tmp_path / "4"), logged(tmp_path / "1"), atol=1e-5)


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
        data, by_subject = (
            path.read_bytes(),
            path.name in ("scores_test.csv", "measures_test.csv", "positions_test.csv"),
        )
        assert b"patient0" not in data, path.name
        assert any(name in data for name in pseudonyms) == by_subject, path.name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle.width": 8}, "--config.modle.width: the config has no key modle.width; did you mean model.width?"),
        ({"steps": "many"}, "--config.steps=many: give a whole number"),
        ({"model": 8}, "--config.model: model is a group of keys; name one of condition, "),
    ],
    ids=["misspelt key", "wrong type", "group"],
)
def test_a_flag_that_does_not_fit_the_config_is_refused(settings, message, dataset: Path, tmp_path: Path, capsys):
    assert main.main(arguments("segment_sax", dataset, tmp_path / "run", settings)) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_an_error_in_a_config_is_one_line(dataset: Path, tmp_path: Path, capsys) -> None:
    settings = {"model.encoder": "resnet19"}
    assert main.main(arguments("segment_sax", dataset, tmp_path / "run", settings)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config.model.encoder='resnet19' is unknown: choose one of")
    assert len(error.splitlines()) == 1


def test_the_command_trains(dataset: Path, pretrained: Path, tmp_path: Path) -> None:
    assert main.main(arguments("pretrain_sax", dataset, tmp_path / "run", PRETRAIN)) == 0
    assert logged(tmp_path / "run") == logged(pretrained)
