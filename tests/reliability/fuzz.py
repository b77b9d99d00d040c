"""Feeds the readers of foreign files with mutated inputs: 10,000 for each, a process for each.

    python -m tests.reliability.fuzz [--reader NAME ...] [--inputs 10000] [--seed 0]
    python -m tests.reliability.fuzz --reader NAME --seed 0 --only NUMBER

A reader must return a plausible value, or raise one of its documented errors: one printable line
that names the file. Anything else is a failure: another exception, an implausible value, more than
5 s or 1 GB, a crash, many warnings or one of arithmetic. An input is a function of the reader's
name, the seed and the number, so `--only` replays it, with the traceback. See docs/reliability.md.
"""

import argparse
import dataclasses
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.reliability import targets, worker
from tests.reliability.worker import Limits, Verdict

_GRACE_SECONDS = 10.0  # beyond the time limit of an input: a hang in a library's own code
_START_SECONDS = 120.0  # to import libraries and to build the example
_MOST_RESTARTS = 20  # of a reader that crashes, hangs in native code or exceeds its memory


@dataclasses.dataclass
class Result:
    """failures: kind and place -> (number of the first input, its text, how often)."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    peak_bytes: int = 0
    seconds: float = 0.0
    failures: dict[tuple[str, str], tuple[int, str, int]] = dataclasses.field(default_factory=dict)

    def add(self, number: int, verdict: Verdict) -> None:
        key = (verdict.kind, verdict.where)
        first, text, count = self.failures.get(key, (number, verdict.text, 0))
        self.failures[key] = (first, text, count + 1)

    @property
    def failed(self) -> int:
        return sum(count for _, _, count in self.failures.values())


def fuzz(name: str, seed: int, inputs: int, folder: Path, limits: Limits | None = None, module: str = "") -> Result:
    """Reads the inputs 0 ... `inputs` - 1 of a target, in a process of its own, started again after
    a crash. module: of the target, where `targets.MODULES` does not list it.
    """
    limits, result, begun = limits or Limits(), Result(name), time.monotonic()
    context = multiprocessing.get_context("spawn")
    state = context.Array("q", 4, lock=False)
    start = restarts = 0
    while start < inputs and restarts <= _MOST_RESTARTS:
        receive, send = context.Pipe(duplex=False)
        state[0] = -1  # the example is not built yet
        arguments = (name, module, folder, seed, range(start, inputs), limits, state, send.send)
        child = context.Process(target=worker.work, args=arguments)
        child.start()
        send.close()
        died = _watch(child, receive, state, limits, result)
        current, restarts = int(state[0]), restarts + 1
        if current < 0:
            result.add(start, Verdict("error", f"the example cannot be built ({died})"))
            break
        if died:
            result.add(current, Verdict(*died))
        start = current + 1 if current < inputs else inputs
    if start < inputs:
        result.add(start, Verdict("stopped", f"after {restarts} processes; mend the failures before it"))
    result.inputs, result.accepted, result.refused, result.peak_bytes = min(start, inputs), *map(int, state[1:4])
    result.seconds = time.monotonic() - begun
    return result


def _watch(child: Any, receive: Any, state: Any, limits: Limits, result: Result) -> tuple[str, str] | None:
    """Collects the failures of a process until it ends. Returns how it died, if it did."""
    seen, since = int(state[0]), time.monotonic()
    while child.is_alive() or receive.poll():
        try:
            if receive.poll(0.2):
                result.add(*receive.recv())
        except EOFError:
            child.join(5)
            break
        if state[0] != seen:
            seen, since = int(state[0]), time.monotonic()
        if time.monotonic() - since > (limits.seconds + _GRACE_SECONDS if seen >= 0 else _START_SECONDS):
            child.kill()
            child.join()
            return "hang", "in a library's own code"
    child.join()
    if child.exitcode:
        sign = signal.Signals(-child.exitcode).name if child.exitcode < 0 else f"exit code {child.exitcode}"
        return "crash", sign
    return None


def replay(name: str, seed: int, number: int, folder: Path) -> Verdict:
    """Reads one input in this process; the mutated files stay in the folder."""
    example = worker.Example(targets.find(name), folder, verbose=True)
    verdict = example.judge(seed, number, Limits().seconds)
    example.write(seed, number)
    return verdict


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| reader | inputs | accepted | refused by name | failures | peak memory | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| `{r.name}` | {r.inputs:,} | {r.accepted:,} | {r.refused:,} | {r.failed} "
        f"| {r.peak_bytes / 2**20:.0f} MiB | {r.seconds:.0f} s |"
        for r in results
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tests.reliability.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--reader", nargs="+", choices=sorted(targets.MODULES), help="default: all")
    p.add_argument("--inputs", type=int, default=10_000, help="for each reader; default 10000")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", type=int, metavar="NUMBER", help="replays one input of one reader")
    p.add_argument("--folder", type=Path, help="for the mutated files; default: a temporary one")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    names = flags.reader or list(targets.MODULES)
    root = flags.folder or Path(tempfile.mkdtemp(prefix="morphojax-fuzz-"))
    if flags.only is not None:
        verdict = replay(names[0], flags.seed, flags.only, root / names[0])
        print(f"{names[0]}, seed {flags.seed}, input {flags.only}: {verdict.kind} {verdict.where}\n  {verdict.text}")
        print(f"  files: {root / names[0] / worker.EXAMPLE}")
        return int(verdict.failed)
    results = []
    for name in names:
        inputs = max(1, round(flags.inputs * targets.FRACTIONS.get(name, 1.0)))
        result = fuzz(name, flags.seed, inputs, root / name)
        results.append(result)
        print(
            f"{name}: {result.inputs} inputs, {result.accepted} accepted, {result.refused} refused, "
            f"{result.failed} failures, {result.peak_bytes / 2**20:.0f} MiB, {result.seconds:.0f} s",
            flush=True,
        )
        for (kind, where), (number, text, count) in sorted(result.failures.items()):
            print(f"  {kind} x {count} at {where}; --reader {name} --seed {flags.seed} --only {number}\n    {text}")
    print(table(results))
    if not flags.folder:
        shutil.rmtree(root, ignore_errors=True)
    return int(any(r.failed for r in results))


if __name__ == "__main__":
    sys.exit(main())
