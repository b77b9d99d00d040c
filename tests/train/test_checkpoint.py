"""Checkpoints: which are kept, damaged ones, full disks, and what a save leaves open."""

import os
import shutil
from pathlib import Path

import jax
import pytest

from morphojax.train import checkpoint, digests
from tests.disk import full_disk
from tests.train.test_loop import fit, weights
from tests.train.toy import Batches, task


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run with checkpoints of the steps 6 and 8; the best is that of step 4."""
    run = tmp_path_factory.mktemp("trained")
    fit(run, task(8, Batches()), save_every=3)
    return run


def test_missing_checkpoints_are_told(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="no run and no checkpoint"):
        checkpoint.load_variables(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="no whole checkpoint"):
        checkpoint.load_variables(tmp_path)


def test_every_damaged_file_is_found(trained: Path, tmp_path: Path) -> None:
    last = checkpoint.find(trained, "last")
    for number, path in enumerate(files(last)):
        for name, damage in (("flip", flip), ("empty", lambda p: p.write_bytes(b"")), ("absent", Path.unlink)):
            if path.name == digests.NAME and name == "absent":
                continue  # a kill can come before the digests
            copy = shutil.copytree(last, tmp_path / f"{number}_{name}")
            damage(copy / path.relative_to(last))
            with pytest.raises(checkpoint.CheckpointError, match=f"{number}_{name}: damaged"):
                checkpoint.load_variables(copy)


def test_a_checkpoint_without_digests_is_read(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    expected = weights(run)
    (checkpoint.find(run, "last") / digests.NAME).unlink()
    assert weights(run) == expected


def test_evaluation_takes_the_last_whole_checkpoint(trained: Path, tmp_path: Path, capsys) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    flip(files(run / "checkpoints/8/state")[0])
    assert checkpoint.find(run, "last").name == "6"
    assert "checkpoints/8: damaged" in capsys.readouterr().out
    for folder in (run / "checkpoints").iterdir():
        if folder.name != "8":
            flip(files(folder / "state")[0])
    with pytest.raises(checkpoint.CheckpointError, match="no whole checkpoint"):
        checkpoint.find(run, "last")


def test_a_run_goes_on_from_the_last_whole_checkpoint(trained: Path, tmp_path: Path, capsys) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    flip(files(run / "checkpoints/8/state")[0])
    assert fit(run, task(12, Batches()))
    said = capsys.readouterr().out
    assert "checkpoints/8: damaged" in said and "resumed at step 6 of 12" in said
    assert (run / "damaged/8").is_dir()
    fit(tmp_path / "whole", task(12, Batches()))
    assert weights(run) == weights(tmp_path / "whole")


def test_saving_leaves_no_file_open(tmp_path: Path) -> None:
    made = task(12, Batches())
    state = jax.jit(made.init)(made.pretrained)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    opened = []
    for step in range(1, 13):
        checkpoints.save(step, state, {"next": step}, None)
        opened.append(len(os.listdir("/proc/self/fd")))
    assert opened[-1] <= opened[1]
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [11, 12]


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_as_asked_are_kept(tmp_path: Path, keep: int) -> None:
    fit(tmp_path, task(12, Batches()), save_every=2, eval_every=100, keep_checkpoints=keep)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [12 - 2 * n for n in reversed(range(keep))]


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(checkpoint.CheckpointError, match="cannot be written"):
        checkpoint.Checkpoints(tmp_path / "file")


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, task(3, Batches()))
    made = task(12, Batches())
    state = jax.jit(made.init)(made.pretrained)
    checkpoints = checkpoint.Checkpoints(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*make room"):
        checkpoints.save(9, state, {"next": 9}, None)
    assert checkpoint.find(tmp_path, "last").name == "3"


def test_damaged_metadata_of_a_checkpoint_are_named(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "checkpoints/8/digests.json").unlink()  # which would tell at once
    path = run / "checkpoints/8/_CHECKPOINT_METADATA"
    path.write_text('{"x": 1, ' + path.read_text().lstrip().removeprefix("{"))
    with pytest.raises(checkpoint.CheckpointError, match="run/checkpoints"):
        checkpoint.load_variables(run)


def test_evaluation_takes_another_checkpoint_whatever_file_is_damaged(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert checkpoint.find(run, "best").name == "8"
    for path in files(run / "checkpoints/8"):
        whole = path.read_bytes()
        for damaged in (b"", b"\xff" + whole[1:], whole + b"more"):
            path.write_bytes(damaged)
            assert checkpoint.find(run, "best").name == "6"
        path.write_bytes(whole)
    assert checkpoint.find(run, "best").name == "8"


def test_a_full_disk_prints_no_traceback(tmp_path: Path, capfd, caplog) -> None:
    made = task(12, Batches())
    state = jax.jit(made.init)(made.pretrained)
    state = state.replace(params=state.params | {"large": jax.numpy.arange(10_000.0)})
    checkpoints = checkpoint.Checkpoints(tmp_path)
    with full_disk(2000), pytest.raises(checkpoint.CheckpointError, match="make room"):
        checkpoints.save(9, state, {"next": 9}, None)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out + caplog.text


def test_room_is_checked_without_a_trace(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left|too large"):
        checkpoint._check_room(tmp_path, 2**60)
    checkpoint._check_room(tmp_path, 2**20)
    assert not list(tmp_path.iterdir())
