"""One process of the fuzzer: makes the inputs of one reader, reads them and judges the outcome."""

import contextlib
import dataclasses
import logging
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.reliability import targets
from tests.reliability.targets import Implausible, Target, replace

MOST_WARNINGS = 20  # of one input
MOST_CHARACTERS = 1000  # of an error: it must fit a terminal
EXAMPLE = "example"  # the name of the folder, which an error may give instead of a file's


@dataclasses.dataclass(frozen=True)
class Limits:
    seconds: float = 5.0  # of one input
    bytes: int = 2**30  # resident memory of the process
    reserved: int = 2**32  # bytes that it may allocate; beyond them Python raises MemoryError


class Hang(BaseException):
    """The time limit. Not an Exception, so that no reader catches it."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """kind: accepted, refused, or the kind of a failure. where: the last line of morphojax."""

    kind: str
    text: str = ""
    where: str = ""

    @property
    def failed(self) -> bool:
        return self.kind not in ("accepted", "refused")


class Example:
    """An intact folder of a target, of which single inputs are mutated copies."""

    def __init__(self, target: Target, root: Path, verbose: bool = False):
        """verbose: print the traceback of an error that the reader does not document."""
        self.target, self.folder, self.verbose = target, root / EXAMPLE, verbose
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.mutations = list(target.build(self.folder))
        self.intact = {name: (self.folder / name).read_bytes() for name, _ in self.mutations}

    def write(self, seed: int, number: int) -> list[Path]:
        """Writes input `number` and returns the changed files. Input 0 is the intact folder."""
        draw = random.Random(f"{seed}/{self.target.name}/{number}")
        if number == 0:
            return sorted(self.folder / name for name in self.intact)
        count = min(draw.choice((1, 1, 1, 1, 2)), len(self.mutations))
        chosen = dict(draw.sample(self.mutations, count))  # by name, as a file may be listed several times
        for name, mutate in chosen.items():
            path = self.folder / name
            kind = draw.randrange(150)
            if kind == 0:
                path.unlink(missing_ok=True)
            elif kind == 1:
                path.unlink(missing_ok=True)
                path.mkdir(exist_ok=True)
            elif not path.is_dir():
                replace(path, b"" if kind == 2 else mutate(draw, self.intact[name]))
        return sorted({self.folder / name for name in chosen})

    def restore(self, changed: Sequence[Path]) -> None:
        for path in changed:
            if path.is_dir():
                shutil.rmtree(path)
            replace(path, self.intact[str(path.relative_to(self.folder))])

    def judge(self, seed: int, number: int, seconds: float) -> Verdict:
        """Reads input `number`. The verdict never raises."""
        changed = self.write(seed, number)
        try:
            with caught_warnings() as met, time_limit(seconds):
                self.target.read(self.folder, changed)
            verdict = Verdict("accepted")
        except self.target.named as error:
            verdict = _judge_memory(error) or _judge_message(error, [p.name for p in changed])
        except Hang as error:
            verdict = Verdict("hang", f"more than {seconds:g} s", _where(error))
        except Implausible as error:
            verdict = Verdict("implausible", str(error)[:500], _where(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if self.verbose:
                traceback.print_exc()
            verdict = Verdict("error", f"{type(error).__name__}: {error}"[:500], _where(error))
        finally:
            self.restore(changed)
        if number == 0 and verdict.kind == "refused":
            return Verdict("example", f"the intact files are refused: {verdict.text}")
        return verdict if verdict.failed else _judge_warnings(met) or verdict


def _judge_message(error: Exception, names: Sequence[str]) -> Verdict:
    """An error must be one line of printable text that names a file or its folder."""
    text = str(error)
    if not text.isprintable():
        return Verdict("message", f"not one printable line: {text!r}"[:500], _where(error))
    if len(text) > MOST_CHARACTERS:
        return Verdict("message", f"{len(text)} characters: {text[:200]}", _where(error))
    if not any(name in text for name in (*names, EXAMPLE)):
        return Verdict("message", f"names no file: {text}", _where(error))
    return Verdict("refused", text)


def _judge_memory(error: BaseException | None) -> Verdict | None:
    """A named error that a MemoryError has caused: only the limit of this process prevented it."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError):
            return Verdict("memory", "asked for more than the process may reserve", _where(error))
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _judge_warnings(met: Sequence[warnings.WarningMessage]) -> Verdict | None:
    """Many warnings, or one of arithmetic: a number has gone wrong unnoticed."""
    # orbax leaves coroutines of a failed restore behind, which is no arithmetic
    wrong = [w for w in met if issubclass(w.category, RuntimeWarning) and "never awaited" not in str(w.message)]
    if len(met) > MOST_WARNINGS or wrong:
        first = (wrong or met)[0]
        where = f"{Path(first.filename).name}:{first.lineno}"
        return Verdict("warnings", f"{len(met)}, such as {first.category.__name__}: {first.message}"[:500], where)
    return None


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/morphojax/" in f.filename and "/tests/" not in f.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else f"{frames[-1].filename}:{frames[-1].lineno}"


@contextlib.contextmanager
def caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        yield met


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Hang in the body after so many seconds."""

    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    Linux's own count, where there is one: `ru_maxrss` is inherited from the parent process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    if high := [line.split()[1] for line in lines if line.startswith("VmHWM:")]:
        return 1024 * int(high[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def work(
    name: str, module: str, root: Path, seed: int, numbers: range, limits: Limits, state: Any, report: Callable
) -> None:
    """Reads the inputs `numbers`, from `state[0]` on. Ends early where memory exceeds its limit.

    state: shared with the parent: the number of the current input, how many were accepted and
        refused, and the peak memory. report: takes (number, Verdict) of a failure.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limits.reserved, limits.reserved))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    target = targets.find(name, module)
    example = Example(target, root)
    for number in numbers:
        state[0] = number
        verdict = example.judge(seed, number, limits.seconds)
        peak = peak_bytes()
        state[3] = max(state[3], peak)
        if not verdict.failed and peak > limits.bytes:
            verdict = Verdict("memory", f"{peak / 2**20:.0f} MiB ({verdict.kind})")
        if verdict.failed:
            report((number, verdict))
        else:
            state[1 if verdict.kind == "accepted" else 2] += 1
        if peak > limits.bytes:
            return
    state[0] = numbers.stop
