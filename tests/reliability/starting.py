"""Starts a command in a process of its own, kills it, and says how it ended.

A process is forked from this one, which has imported the libraries and started no JAX backend; it
runs the module as `python -m` does. That leaves out the seconds of imports, in which nothing is
written. A fresh process is `python -m` itself.
"""

import contextlib
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The small programs of these runs compile faster than they run with optimisation.
ENVIRONMENT = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
NAMED = re.compile(r"error: \S.*")
GROUPS = ("analysis.study",)  # modules that start others: a kill ends all of them, as the end of a machine does
LONGEST = 300.0  # seconds, after which a command hangs


@dataclass(frozen=True)
class Ended:
    """code: exit status, -9 after a kill. seconds: wall clock. text: what it printed."""

    code: int
    seconds: float
    text: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def named_error(self) -> str | None:
        """The last line where the command ended in a named error; None where it ended otherwise."""
        lines = [line.strip() for line in re.split(r"[\r\n]+", self.text) if line.strip()]
        named = self.code > 0 and "Traceback" not in self.text and lines and NAMED.fullmatch(lines[-1])
        return lines[-1] if named else None


def preload() -> None:
    """Imports what the commands import, but not the commands, which run as `__main__`."""
    import analysis.study.report  # noqa: F401
    import morphojax.commands.evaluate
    import morphojax.commands.predict
    import morphojax.commands.prepare
    import morphojax.data.inspection.survey
    import morphojax.data.prepare.assemble
    import morphojax.inference.files
    import morphojax.inference.scoring
    import morphojax.measuring
    import morphojax.tasks.describe
    import morphojax.tasks.experiment  # noqa: F401


def run(argv: Sequence[str], log: Path, *, kill_after: float | None = None, fresh: bool = False) -> Ended:
    """Runs `python -m` with these arguments until it ends, or is killed after so many seconds."""
    return wait((_fresh if fresh else _fork)(argv, log), log, kill_after)


def wait(process: "_Process", log: Path, kill_after: float | None = None) -> Ended:
    """Waits for the end of a process, or kills it after so many seconds."""
    began = time.monotonic()
    while (code := process()) is None:
        time.sleep(0.005)
        seconds = time.monotonic() - began
        if seconds > LONGEST or (kill_after is not None and seconds >= kill_after):
            process.kill()
    return Ended(code, time.monotonic() - began, log.read_text(errors="replace"))


class _Process:
    """A child process: call it for its exit status, None while it runs.

    group: whether it leads a process group, which a kill ends.
    """

    def __init__(self, pid: int, group: bool = False):
        self._pid, self._group = pid, group

    def __call__(self) -> int | None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self._group else os.kill)(self._pid, signal.SIGKILL)


def _fresh(argv: Sequence[str], log: Path) -> _Process:
    group = argv[0] in GROUPS
    with log.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", *argv],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=group,
        )
    return _Process(started.pid, group)


def _fork(argv: Sequence[str], log: Path) -> _Process:
    def body() -> None:
        sys.argv = list(argv)
        os.chdir(ROOT)
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)

    return fork(body, log, argv[0] in GROUPS)


def fork(body: Callable[[], None], log: Path, group: bool = False) -> _Process:
    """A copy of this process that calls `body` and ends; what it prints goes to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        if group:
            with contextlib.suppress(PermissionError, ProcessLookupError):  # the child was first
                os.setpgid(pid, pid)
        return _Process(pid, group)
    code = 1
    try:
        if group:
            os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        body()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
