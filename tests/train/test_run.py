"""The run directory and the log."""

import importlib.metadata
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from morphojax.train import lineage, run
from morphojax.train.logger import Logger, logged
from morphojax.train.task import TrainingError
from tests.disk import full_disk


def test_a_run_directory_refuses_another_config_and_data(tmp_path: Path) -> None:
    config = {"seed": 0, "workdir": "a", "data": {"fraction": 0.1, "workers": 0}}
    files = {"preprocessing.json": {"dataset_fingerprint": "x"}}
    run.create(tmp_path, config | {"seed": 9}, files)
    run.create(tmp_path, config, files)  # without a checkpoint there is nothing to resume
    assert run.read_json(tmp_path, "config.json")["seed"] == 0
    (tmp_path / "checkpoints").mkdir()
    run.create(tmp_path, config | {"workdir": "b", "data": {"fraction": 0.1, "workers": 2}}, files)
    with pytest.raises(run.RunError, match=r"another config \(data.fraction, seed\)"):
        run.create(tmp_path, config | {"seed": 1, "data": {"fraction": 0.2, "workers": 0}}, files)
    with pytest.raises(run.RunError, match="another dataset"):
        run.create(tmp_path, config, {"preprocessing.json": {"dataset_fingerprint": "y"}})
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__ and environment["devices"]


def test_a_description_that_has_changed_is_refused_and_resuming_writes_it_again(tmp_path: Path) -> None:
    config, files = {"seed": 0, "workdir": "a"}, {"preprocessing.json": {"percentiles": [1, 99]}}
    run.create(tmp_path, config, files)
    path = tmp_path / "preprocessing.json"
    whole = path.read_text()
    path.write_text(whole.replace("99", "98"))
    with pytest.raises(run.RunError, match=r"preprocessing.json: has changed since the run wrote it"):
        run.read_json(tmp_path, "preprocessing.json")
    path.write_text(whole)
    assert run.read_json(tmp_path, "preprocessing.json") == {"percentiles": [1, 99]}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"a"', '"b"'))
    run.create(tmp_path, config, files)  # as after a kill between a file and its digest
    assert run.read_json(tmp_path, "config.json") == config
    (tmp_path / run.DIGESTS).write_text("{")
    with pytest.raises(run.RunError, match=r"config.json: cannot be read|digests.json"):
        run.read_json(tmp_path, "config.json")
    (tmp_path / run.DIGESTS).unlink()  # a run of an older version
    assert run.read_json(tmp_path, "config.json") == config


def test_names_of_runs_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    assert run.short_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert run.short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    with pytest.raises(run.RunError, match="a: is given twice"):
        run.short_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_a_run_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(run.RunError, match=r"config.workdir=.*cannot be written"):
        run.create(tmp_path / "file" / "run", {}, {})
    with pytest.raises(run.RunError, match=r"is .* the directory of a run"):
        run.read_json(tmp_path, "config.json")


def test_a_second_process_in_a_run_directory_is_refused(tmp_path: Path) -> None:
    message = r"config.workdir: .*run: process \d+ on .* is at work here"
    with run.alone(tmp_path / "run"), pytest.raises(run.RunError, match=message), run.alone(tmp_path / "run"):
        pass
    with run.alone(tmp_path / "run"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(run.RunError, match="cannot be written"), run.alone(tmp_path / "file"):
        pass


def test_the_log_takes_up_where_it_is_told(tmp_path: Path) -> None:
    log = Logger(tmp_path, start=0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": float(step)})
    log.scalars(4, {"loss": float("nan")})
    log.close()
    Logger(tmp_path, start=2).close()
    assert [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_scalars_and_images_reach_tensorboard(tmp_path: Path) -> None:
    for active, folder in ((True, tmp_path / "first"), (False, tmp_path / "other")):
        folder.mkdir()
        log = Logger(folder, start=0, active=active)
        log.scalars(3, {"loss": 0.5})
        log.images(3, {"slices": np.zeros((4, 4, 3), np.uint8)})
        log.close()
    assert not list((tmp_path / "other").iterdir())
    log = Logger(tmp_path / "first", start=3)  # resumed in the same process and second
    log.scalars(4, {"loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "first"))
    events.Reload()
    assert events.Tags()["images"] == ["slices"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.5), (4, 0.25)]


def test_the_environment_of_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "morphojax":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    packages = json.loads(json.dumps(run.environment()))["packages"]
    assert packages["morphojax"] is None and packages["jax"] == installed("jax")


def test_the_environment_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert run.environment()["commit"] is None


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "preprocessing.json", run.DIGESTS])
@pytest.mark.parametrize("text", [DEEP, "[]", "7", '{"init_from": 3.5, "grid": 1, "label": []}'])
def test_a_description_of_another_structure_is_named(tmp_path: Path, name: str, text: str) -> None:
    files = {"preprocessing.json": {"grid": {"size": 8}, "percentiles": [1, 99], "dataset_fingerprint": "x"}}
    run.create(tmp_path, {"seed": 0, "data": {"splits": ["train"]}}, files)
    if name != run.DIGESTS:
        (tmp_path / run.DIGESTS).unlink()  # a run of an older version
    (tmp_path / name).write_text(text)
    with pytest.raises(run.RunError, match=name):
        run.check_same_images({"grid": {"size": 8}, "percentiles": [1, 99]}, tmp_path)
        lineage.columns_given(tmp_path)
        lineage.trained_on(tmp_path, "x")


@pytest.mark.parametrize("line", [DEEP, "7", '{"step": "1"}', '{"step": null}', "{}", "", "\udcff"])
def test_a_damaged_line_of_the_log_is_left_out(tmp_path: Path, line: str) -> None:
    good = '{"step": 1, "train/loss": 0.5, "train/note": "x"}\n'
    (tmp_path / "metrics.jsonl").write_text(f"{good}{line}\n", errors="surrogateescape")
    assert list(logged(tmp_path, 10)) == [(1, {"loss": 0.5})]
    Logger(tmp_path, start=5).close()
    assert (tmp_path / "metrics.jsonl").read_text() == good


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    for use in (lambda: list(logged(tmp_path, 10)), lambda: Logger(tmp_path, start=0)):
        with pytest.raises(run.RunError, match=r"metrics.jsonl: cannot be read"):
            use()


def test_a_full_disk_under_the_log_is_told_and_nothing_waits_for_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for what in (lambda log, step: log.images(step, {"x": noise}), lambda log, step: log.scalars(step, {"x": 1.0})):
        log = Logger(tmp_path, start=0)
        with full_disk(4096), pytest.raises(TrainingError, match=r"the log cannot be written .*make room"):
            for step in range(500):
                what(log, step)
        with full_disk(4096):
            log.close()


@pytest.mark.parametrize(
    "damaged", ['{"step": 1, "lo\udc80ss": 1.0}', "7", "{}", '{"step": null}', '{"step": "a"}', ""]
)
def test_a_damaged_line_of_the_log_is_dropped_with_a_warning(damaged: str, tmp_path: Path, capsys) -> None:
    log = Logger(tmp_path, start=0)
    for step in (1, 2, 3):
        log.scalars(step, {"train/loss": float(step)})
    log.close()
    path = tmp_path / "metrics.jsonl"
    first, second, third = path.read_text().splitlines()
    path.write_bytes("\n".join([first, damaged, third, second[:9]]).encode(errors="surrogateescape"))
    Logger(tmp_path, start=3).close()
    kept = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    if 'step": 1' in damaged:  # a byte inside a name: the line is still one
        assert kept == [1, 1, 3]
    else:
        assert kept == [1, 3] and "metrics.jsonl: 1 lines are damaged" in capsys.readouterr().out
    assert [step for step, _ in logged(tmp_path, 3)][-1] == 3


@pytest.mark.parametrize("damage", ['"xb"', "{", ""], ids=["flip", "cut", "empty"])
@pytest.mark.parametrize("dynamics_every", [0, 2])
def test_a_damaged_start_is_refused_whether_or_not_dynamics_read_it(tmp_path: Path, damage, dynamics_every) -> None:
    """Resuming writes the description again: it must not vouch for what is damaged."""
    config = {"seed": 0, "workdir": "a", "init_from": "", "dynamics_every": dynamics_every}
    files = {"preprocessing.json": {}, "start.json": "xa"}
    run.create(tmp_path, config, files)
    (tmp_path / "checkpoints").mkdir()
    run.create(tmp_path, config, files)
    assert run.read_json(tmp_path, "start.json") == "xa"
    (tmp_path / "start.json").write_text(damage)
    with pytest.raises(run.RunError, match=r"start\.json|other weights than when"):
        run.create(tmp_path, config, files)


def test_another_file_in_place_of_the_digests_is_refused(tmp_path: Path) -> None:
    config = {"seed": 0, "workdir": "a", "init_from": "", "dynamics_every": 0}
    files = {"preprocessing.json": {}, "start.json": {"weights": "ab"}}
    run.create(tmp_path, config, files)
    (tmp_path / "checkpoints").mkdir()
    start, digests = (tmp_path / "start.json").read_bytes(), (tmp_path / run.DIGESTS).read_bytes()
    (tmp_path / "start.json").write_bytes(digests)
    (tmp_path / run.DIGESTS).write_bytes(start)
    with pytest.raises(run.RunError, match=r"digests\.json: not as a run writes it"):
        run.create(tmp_path, config, files)
