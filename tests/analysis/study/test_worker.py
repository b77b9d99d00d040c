import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from analysis.study import state, worker
from morphojax.data.store.lock import held, locked
from tests.analysis.study import fake, made

ONE = {"cells": ({"arm": ("scratch",), "labelled": ("1a",), "seed": ("0",)},)}


@dataclasses.dataclass(frozen=True)
class Fake:
    """A job whose commands are fakes. kind: of the training."""

    job: object
    kind: str = "train"
    needs: "Fake | None" = None

    def __getattr__(self, name):
        return getattr(self.job, name)

    def train(self):
        return ["tests.analysis.study.fake", str(self.run), self.kind]

    def score(self):
        return None if self.cell is None else ["tests.analysis.study.fake", str(self.run), "score"]

    def commands(self):
        return [command for command in (self.train(), self.score()) if command]


def fakes(folder, kinds=None, **changes):
    """Jobs of a study with one labelled set. kinds: name of a job -> kind of its training."""
    changes = {"cells": ({"labelled": ("1a",), "seed": ("0",)},)} | changes
    made_fakes = {}
    for job in made.study(folder, **changes)[1]:
        needs = made_fakes[job.needs.name] if job.needs else None
        made_fakes[job.name] = Fake(job, (kinds or {}).get(job.name, "train"), needs)
    return list(made_fakes.values())


class Direct:
    """Calls the fakes in this process: most tests are not about processes."""

    stopped = False

    def call(self, command, log):
        with log.open("a") as file, contextlib.redirect_stderr(file):
            code = fake.main(Path(command[1]), command[2])
        return code, log.read_text().strip().rpartition("\n")[2]


def run(jobs, inline=None):
    said = []
    worker.work(jobs, lambda job, found: said.append((job.name, found)), inline or Direct())
    return said


def run_processes(jobs):
    return worker.work(jobs, lambda job, found: None)


def calls(job):
    path = job.run / "calls"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def words(jobs):
    return {job.name: state.read(job).status for job in jobs}


def test_all_jobs_run_once_and_a_finished_study_runs_nothing(tmp_path):
    jobs = fakes(tmp_path)
    said = run(jobs)
    assert [name for name, _ in said] == [job.name for job in jobs] and len(jobs) == 5
    assert set(words(jobs).values()) == {state.DONE}
    before = {job.name: calls(job) for job in jobs}
    assert [found.status for _, found in run(jobs)] == [state.DONE] * len(jobs)
    assert {job.name: calls(job) for job in jobs} == before
    record = state.read_record(jobs[1])
    assert record["cell"] == dict(jobs[1].cell.values) and record["labels"] == 1
    assert record["commands"] == jobs[1].commands() and record["seconds"].keys() == {"train", "evaluate"}


def test_a_failure_stops_what_needs_it_and_nothing_else_and_is_tried_again(tmp_path):
    failing = "pretraining of pretrained_1a_0"
    jobs = fakes(tmp_path, {failing: "fail"})
    said = dict(run(jobs))
    assert said[failing].status == state.FAILED
    assert "train: error: config.steps=0: give a number (exit code 2; log:" in said[failing].why
    assert said["pretrained_1a_0"].status == state.FAILED and failing in said["pretrained_1a_0"].why
    assert said["scratch_1a_0"].status == said["shuffled_1a_0"].status == state.DONE
    assert words(jobs)[failing] == state.FAILED
    mended = fakes(tmp_path)
    run(mended)
    assert set(words(mended).values()) == {state.DONE}


def test_several_workers_do_not_repeat_a_failure_of_now(tmp_path):
    jobs = fakes(tmp_path, {"scratch_1a_0": "fail"})
    job = next(job for job in jobs if job.name == "scratch_1a_0")
    started = time.time()
    run([job])
    assert calls(job) == ["fail scratch_1a_0"]
    assert worker._next(job, {}, started).status == state.FAILED  # of a worker that began before it failed
    assert worker._next(job, {}, time.time() + 1).status == state.STOPPED  # of a later one


def test_a_signal_ends_a_worker_that_only_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)
    needed, *others = fakes(tmp_path)
    state.write(needed, {"train": 0.0})
    with locked(needed.beside("locks")):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(worker.Interrupted):
            run_processes([needed, *(job for job in others if job.needs is needed)])


def test_another_scoring_keeps_the_training(tmp_path):
    jobs = fakes(tmp_path)
    run(jobs)
    other = fakes(tmp_path, evaluate={"split": "test", "checkpoint": "last", "weights": "model"})
    assert {words(other)[job.name] for job in other if job.cell} == {state.STOPPED}
    assert {words(other)[job.name] for job in other if not job.cell} == {state.DONE}
    run(other)
    assert set(words(other).values()) == {state.DONE}
    assert state.read_record(other[1])["evaluate"]["weights"] == "model"


def test_a_study_that_changed_before_anything_was_trained_runs(tmp_path):
    jobs = fakes(tmp_path, {"scratch_1a_0": "fail"})
    run(jobs)
    other = fakes(tmp_path, base={"segment": {"steps": 8}})
    words_now = words(other)
    assert words_now["scratch_1a_0"] == state.MISSING and words_now["shuffled_1a_0"] == state.UNUSABLE


def test_a_removed_pretraining_is_not_missed_once_its_cells_are_done(tmp_path):
    jobs = fakes(tmp_path)
    run(jobs)
    shutil.rmtree(jobs[0].run)
    assert jobs[0].cell is None and state.read_all(jobs)[jobs[0].name].status == state.DONE
    run(jobs)
    assert not jobs[0].run.exists()
    cell = next(job for job in jobs if job.needs is jobs[0])
    shutil.rmtree(cell.run)
    assert state.read_all(jobs)[jobs[0].name].status == state.MISSING
    run(jobs)
    assert set(words(jobs).values()) == {state.DONE}


def test_to_look_at_a_lock_does_not_take_it(tmp_path):
    path = tmp_path / "lock"
    assert not held(path)
    with locked(path):
        assert held(path)
    assert not held(path) and not path.exists()
    path.write_text(json.dumps({"host": socket.gethostname(), "process": 2**22 + 1}))  # no such process
    assert not held(path)
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    assert not path.exists()  # an error frees it, too


def test_a_process_that_fails_is_named_by_its_last_line(tmp_path):
    job = fakes(tmp_path, {"scratch_1a_0": "fail"}, **ONE)[0]
    run_processes([job])
    found = state.read(job)
    assert found.status == state.FAILED
    assert found.why == f"train: error: config.steps=0: give a number (exit code 2; log: {tmp_path}/logs/scratch_1a_0)"


def test_a_job_that_another_worker_has_is_left_to_it(tmp_path):
    jobs = fakes(tmp_path)
    taken = next(job for job in jobs if job.name == "scratch_1a_0")
    with locked(taken.beside("locks")):
        assert state.read(taken).status == state.MISSING
        run(jobs)
        assert not calls(taken)
    assert words(jobs)["scratch_1a_0"] == state.MISSING
    run(jobs)
    assert set(words(jobs).values()) == {state.DONE}


def test_a_training_that_outlived_its_worker_is_left_alone(tmp_path):
    jobs = fakes(tmp_path)
    job = next(job for job in jobs if job.name == "scratch_1a_0")
    state.write(job, {"train": 1.0, "evaluate": 0.0})
    with locked(job.run / "lock"):
        assert state.read(job).status == state.RUNNING
        run(jobs)
        assert not calls(job)
    assert state.read(job).status == state.STOPPED


def test_a_worker_waits_for_a_pretraining_that_another_one_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)
    jobs = fakes(tmp_path)
    needed = next(job for job in jobs if job.name == "pretraining of pretrained_1a_0")
    state.write(needed, {"train": 0.0})
    held, release = threading.Event(), threading.Event()

    def other():
        with locked(needed.beside("locks")):
            held.set()
            release.wait()
            (needed.run / "checkpoints" / "1").mkdir(parents=True)
            for name in ("config.json", "environment.json", "preprocessing.json", "checkpoints/1/digests.json"):
                (needed.run / name).write_text("{}")
            state.write(needed, {"train": 1.0}, done=True)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    threading.Timer(0.5, release.set).start()
    run(jobs)
    thread.join()
    assert not calls(needed)
    assert set(words(jobs).values()) == {state.DONE}


def test_a_signal_reaches_the_run_and_the_worker_goes_on_later(tmp_path):
    jobs = fakes(tmp_path, {"scratch_1a_0": "hang"}, **ONE)

    def stop_once_it_hangs():
        while not (jobs[0].run / "hangs").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_it_hangs).start()
    with pytest.raises(worker.Interrupted):
        run_processes(jobs)
    found = state.read(jobs[0])
    assert found.status == state.STOPPED and found.seconds["train"] > 0
    again = fakes(tmp_path, **ONE)
    run(again)
    assert state.read(again[0]).status == state.DONE
    assert state.read(again[0]).seconds["train"] >= found.seconds["train"]


def test_a_killed_worker_leaves_a_job_that_the_next_one_finishes(tmp_path):
    job = fakes(tmp_path, **ONE)[0]
    program = (
        "import sys; from tests.analysis.study.test_worker import ONE, fakes, run_processes\n"
        f"run_processes(fakes({str(tmp_path)!r}, {{'scratch_1a_0': 'hang'}}, **ONE))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    while not (job.run / "hangs").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert state.read(job).status == state.STOPPED
    run([job])
    assert state.read(job).status == state.DONE


def test_unusable_directories_are_named_and_left_alone(tmp_path):
    jobs = fakes(tmp_path)
    run(jobs)
    scratch, shuffled = (next(job for job in jobs if job.name == f"{arm}_1a_0") for arm in ("scratch", "shuffled"))
    (scratch.run / "evaluation" / "scores_test.csv").unlink()  # half deleted
    found = state.read(scratch)
    assert found.status == state.UNUSABLE and "scores_test.csv: is gone or has changed" in found.why
    (scratch.run / "study.json").unlink()
    assert "holds files, but no study.json" in state.read(scratch).why
    (shuffled.run / "study.json").write_text("{")
    assert state.read(shuffled).status == state.UNUSABLE
    said = dict(run(jobs))
    assert said["scratch_1a_0"].status == said["shuffled_1a_0"].status == state.UNUSABLE
    assert (shuffled.run / "study.json").read_text() == "{"


def test_a_kill_while_the_record_is_written_leaves_a_missing_job(tmp_path):
    job = fakes(tmp_path)[0]
    job.run.mkdir(parents=True)
    (job.run / f"{state.FILE}.123.partial").touch()
    assert state.read(job).status == state.MISSING


def test_a_study_that_changed_does_not_take_over_old_cells(tmp_path):
    run(fakes(tmp_path))
    other = fakes(tmp_path, base={"segment": {"steps": 8}})
    by_name = {job.name: state.read(job) for job in other}
    cells = [found for job, found in zip(other, by_name.values(), strict=True) if job.cell]
    assert all(found.status == state.UNUSABLE and "made for another config" in found.why for found in cells)
    pretrainings = [found for job, found in zip(other, by_name.values(), strict=True) if not job.cell]
    assert all(found.status == state.DONE for found in pretrainings)  # they did not change


def test_a_pretraining_without_its_checkpoint_is_not_done(tmp_path):
    jobs = fakes(tmp_path)
    run(jobs)
    (jobs[0].run / "checkpoints" / "1" / "digests.json").unlink()
    assert jobs[0].cell is None and state.read(jobs[0]).status == state.UNUSABLE
