"""Helpers of the comparisons with PyTorch: paired times, ratios, random parameters, prompt exit."""

import contextlib
import dataclasses
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.processes import tree

Step = Callable[[], None]
# GB/s of memory bandwidth, by a part of the device's name; the first that matches counts.
BANDWIDTHS = {"H200": 4800, "H100 PCIe": 2000, "H100 NVL": 3900, "H100": 3350, "A100-SXM4-80GB": 2039, "A100": 1555}


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds of one step: by wall clock, and of processor time summed over threads."""

    wall: float
    processor: float


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median and range of paired ratios."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def timed(step: Step) -> Time:
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return Time(time.perf_counter() - wall, time.process_time() - processor)


def milliseconds(step: Step, repeats: int = 3, warm_up: int = 3) -> float:
    """Median wall clock of a step by itself."""
    return 1e3 * statistics.median([timed(step).wall for _ in range(warm_up + repeats)][warm_up:])


def paired(ours: Step, pytorch: Step, pairs: int, warm_up: int = 3) -> tuple[list[Time], list[Time]]:
    """Times of both, alternating in one process: what else the machine does disturbs both alike."""
    times = [(timed(ours), timed(pytorch)) for _ in range(pairs + warm_up)][warm_up:]
    return [pair[0] for pair in times], [pair[1] for pair in times]


def compare(ours: Sequence[Time], pytorch: Sequence[Time], processor: bool) -> dict[str, Any]:
    """Median milliseconds of both, and PyTorch's time over ours: above 1, we are faster.

    processor: also the ratio of processor time, which a busy machine disturbs less than wall clock.
    """
    values: dict[str, Any] = {
        "ms": 1e3 * statistics.median(t.wall for t in ours),
        "pytorch_ms": 1e3 * statistics.median(t.wall for t in pytorch),
        "ratio": str(ratio([t.wall for t in ours], [t.wall for t in pytorch])),
    }
    if processor:
        values["processor_ratio"] = str(ratio([t.processor for t in ours], [t.processor for t in pytorch]))
    return values


def ratio(ours: Sequence[float], pytorch: Sequence[float]) -> Ratio:
    ratios = [b / a for a, b in zip(ours, pytorch, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def bandwidth(device: str) -> float | None:
    """GB/s of a device's memory by its name; None where it is not known here."""
    return next((float(value) for name, value in BANDWIDTHS.items() if name in device), None)


def random_like(shapes: Any) -> Any:
    """Random numbers in 0..0.02, in the shapes of a tree.

    The values do not change the time of a step. Compiling a model's own initialisation would take
    almost as long as compiling the step.
    """
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.uniform(0, 0.02, leaf.shape).astype(leaf.dtype), shapes)


def import_pytorch() -> None:
    """Imports PyTorch and transformers where they are installed, before anything is timed."""
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
        import transformers  # noqa: F401


def finish(status: int = 0) -> None:
    """Ends this process at once, and every process that it started.

    PyTorch compiles in worker processes. Its exit handler waits up to 300 seconds for them
    (SubprocPool.shutdown), so this function skips exit handlers. Call it last.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if Path("/proc").is_dir():
        for process in tree(os.getpid()):
            if process != os.getpid():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(process, signal.SIGKILL)
    os._exit(status)
