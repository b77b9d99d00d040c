"""Locks: held by one process, freed by its end, and taken over when they are stale."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from morphojax.data.store import lock
from morphojax.data.store.lock import LockError, locked

HOLD = """
import sys, time
from pathlib import Path
from morphojax.data.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def other(path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def held(path) -> bool:
    try:
        with locked(path):
            return False
    except LockError:
        return True


def write(path, host, process, job="", age=0.0):
    path.write_text(json.dumps({"host": host, "process": process, "job": job}))
    os.utime(path, (time.time() - age,) * 2)


def test_a_lock_is_held_for_the_body_and_leaves_no_file(path):
    with locked(path):
        holder = json.loads(path.read_text())
        assert (holder["host"], holder["process"]) == (socket.gethostname(), os.getpid())
    assert not path.exists() and not held(path)


def test_an_error_in_the_body_frees_it(path):
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    assert not held(path)


def test_another_process_is_named_and_its_end_frees_the_lock(path, other):
    with pytest.raises(LockError, match=f"process {other.pid} on {socket.gethostname()} is at work here"), locked(path):
        pass
    other.kill()
    other.wait()
    assert not held(path)


def test_a_name_that_was_left_on_this_machine_is_stale(path):
    """Also where another process has its number by now: the operating system knows better."""
    for process in (2**22 + 1, os.getppid()):
        write(path, socket.gethostname(), process)
        assert not held(path)


def test_a_lock_that_is_taken_over_names_its_new_holder(path):
    path.write_text(json.dumps({"host": socket.gethostname(), "process": 2**22 + 1, "job": "a long name" * 20}))
    with locked(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_without_locks_of_the_file_system_a_living_process_holds_it(path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    write(path, socket.gethostname(), 2**22 + 1)
    assert not held(path)
    write(path, socket.gethostname(), os.getppid())
    assert held(path)


def test_another_machine_holds_it_until_it_is_silent(path):
    write(path, "elsewhere", 1)
    assert held(path)
    write(path, "elsewhere", 1, age=lock.STALE_SECONDS + 30)
    assert not held(path)


def test_the_same_job_may_go_on_elsewhere(path, monkeypatch):
    write(path, "elsewhere", 1, "77")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert held(path)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert not held(path)


def test_a_lock_that_a_kill_cut_short_is_free(path):
    path.write_text('{"host": "else')
    assert not held(path)


def test_a_holder_beats(path, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.05)
    with locked(path):
        os.utime(path, (0, 0))
        for _ in range(100):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.05)
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "7", '{"host": 1, "process": {}}', "\x00", '{"process": "x", "host": "h"}']
)
def test_a_damaged_lock_is_free(path, text):
    path.write_text(text)
    assert not held(path)
