"""One worker of a study: takes jobs that nobody else runs, until none is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from analysis.study import state
from analysis.study.errors import StudyError
from analysis.study.jobs import Job
from morphojax.data.store.lock import LockError, locked
from morphojax.exit_codes import STOPPED

POLL_SECONDS = 2.0  # between looks at a pretraining that another worker runs
COMMANDS = ("train", "evaluate")
# Ask glibc for huge pages: without them, mapping the large arrays of a step takes an eighth of its
# time on a CPU.
_ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
}


class Interrupted(Exception):
    """A signal asked the worker to end; its job is saved and goes on with the next run."""


def work(jobs: Sequence[Job], on_end: Callable[[Job, state.State], None], inline: "Caller | None" = None) -> None:
    """Runs the jobs that are not done, and returns when none is left that this worker could run.

    on_end: is called with every job that ended, was done before, or cannot be run. inline: runs the
    commands, instead of a process for each. A job that fails does not stop the others; what needs
    it is left out. Raises Interrupted.
    """
    started = time.time()
    done = {name: found for name, found in state.read_all(jobs).items() if found.status == state.DONE}
    seen: dict[str, str] = {}  # name of a job -> its last status
    with contextlib.nullcontext(inline) if inline is not None else _signals() as running:
        while True:
            ran = waits = False
            for job in jobs:
                if running.stopped:
                    raise Interrupted
                if job.name in seen:
                    continue
                found = done.get(job.name) or _next(job, seen, started)
                waits |= found.status == state.RUNNING and _is_needed(job, jobs)
                if found.status in (state.MISSING, state.STOPPED):
                    with contextlib.suppress(LockError), locked(job.beside("locks")):
                        ran = True
                        found = _run(job, running)
                if found.status in (state.MISSING, state.STOPPED, state.RUNNING):
                    continue  # another worker has it
                seen[job.name] = found.status
                on_end(job, found)
            if not ran and not waits:
                return
            if not ran:
                time.sleep(POLL_SECONDS)


def _next(job: Job, seen: dict[str, str], started: float) -> state.State:
    """The state of a job for this worker, which began at the time `started`.

    One that failed before that time is tried again. One whose pretraining is not done waits for it
    (RUNNING) or is left out (FAILED).
    """
    found = state.read(job)
    if found.status == state.FAILED and (job.run / state.FILE).stat().st_mtime < started:
        found = state.State(state.STOPPED, seconds=found.seconds)
    if job.needs is None or found.status not in (state.MISSING, state.STOPPED):
        return found
    if (needed := seen.get(job.needs.name)) in (state.FAILED, state.UNUSABLE):
        return state.State(state.FAILED, f"the {job.needs.name}, which it needs, is {needed}")
    return found if needed == state.DONE else state.State(state.RUNNING)


def _is_needed(job: Job, jobs: Sequence[Job]) -> bool:
    return job.cell is None and any(other.needs is not None and other.needs.name == job.name for other in jobs)


def _run(job: Job, running: "Caller") -> state.State:
    """Trains and scores, from where an earlier attempt ended."""
    found = state.read(job, mine=True)
    if found.status not in (state.MISSING, state.STOPPED, state.FAILED):
        return found  # another worker had it since
    seconds = dict.fromkeys(COMMANDS[: len(job.commands())], 0.0) | found.seconds
    state.write(job, seconds)
    failure, log = "", job.beside("logs")
    for name, command in zip(COMMANDS, job.commands(), strict=False):
        clock = time.monotonic()
        code, last_line = running.call(command, log)
        seconds[name] += time.monotonic() - clock
        if running.stopped or code == STOPPED:
            state.write(job, seconds)
            raise Interrupted
        if code:
            failure = f"{name}: {last_line or 'no message'} (exit code {code}; log: {log})"
            break
    if not failure:
        try:
            state.check_results(job)
        except StudyError as error:
            failure = str(error)
    state.write(job, seconds, failure, done=not failure)
    return state.State(state.FAILED if failure else state.DONE, failure, seconds)


class Caller(Protocol):
    """Runs the commands of jobs. stopped: a signal came."""

    stopped: bool

    def call(self, command: Sequence[str], log: Path) -> tuple[int, str]: ...


class Running:
    """The command that runs now. stopped: a signal came."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.stopped = False

    def call(self, command: Sequence[str], log: Path) -> tuple[int, str]:
        """Exit code and last line of a module's run, whose output is appended to the log."""
        with log.open("ab") as file:
            start = file.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT | os.environ,
            )
            if self.stopped:
                self.process.terminate()
            code = self.process.wait()
        lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
        return code, next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self, signum: int, frame: object) -> None:
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signum)


@contextlib.contextmanager
def _signals() -> Iterator[Running]:
    """SIGTERM and SIGINT reach the command that runs, which saves; then the worker ends."""
    running = Running()
    before = {s: signal.signal(s, running.stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
