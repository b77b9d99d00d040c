"""How long the jobs of a study take: measured on jobs that are done, or by a pilot."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.study.errors import StudyError
from analysis.study.jobs import Job
from analysis.study.state import DONE, State
from morphojax.data import json_text
from morphojax.data.store.records import write_atomically

FILE = "pilots_{}.json"
PILOT_STEPS, PILOT_LOGS = 24, 4
_PILOT = {"steps": PILOT_STEPS, "epochs": 0.0, "log_every": PILOT_LOGS, "save_every": PILOT_STEPS, "eval_every": 0}


def from_states(jobs: Iterable[Job], states: Mapping[str, State]) -> dict[str, float]:
    """Cost key -> median seconds of the jobs that are done."""
    seconds: dict[str, list[float]] = {}
    for job in jobs:
        if states[job.name].status == DONE and states[job.name].seconds:
            seconds.setdefault(job.cost_key, []).append(sum(states[job.name].seconds.values()))
    return {cost: statistics.median(values) for cost, values in seconds.items()}


def left(jobs: Iterable[Job], states: Mapping[str, State], known: Mapping[str, float]) -> float | None:
    """Seconds that one worker needs for what is not done; None where the cost of a job is not
    known. known: cost key -> seconds.
    """
    total = 0.0
    for job in jobs:
        if states[job.name].status != DONE:
            if job.cost_key not in known:
                return None
            total += max(0.0, known[job.cost_key] - sum(states[job.name].seconds.values()))
    return total


def pilots(
    folder: Path, jobs: Sequence[Job], known: Mapping[str, float], workers: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Cost key -> seconds, by a pilot for every key that is not known; measured once per study and
    number of workers, which share the CPUs. Raises StudyError where a pilot fails.
    """
    path = folder / FILE.format(workers)
    try:
        measured = json_text.parse(path.read_bytes(), {str: float}) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: {error}; remove it to measure again") from error
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.cost_key, job)
    for number, (cost, job) in enumerate(first.items(), 1):
        if cost in known or cost in measured:
            continue
        say(f"pilot {number} of {len(first)}: {PILOT_STEPS} steps of {job.name}")
        measured[cost] = pilot(job)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(measured, indent=1) + "\n").encode())
    return measured | dict(known)


def pilot(job: Job) -> float:
    """Seconds of the whole job: of PILOT_STEPS steps and, for a segmentation, a scoring, and for
    the other steps those of the pilot's last ones.
    """
    steps = _steps(job)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        changes: dict[str, Any] = dict(_PILOT)
        if job.needs is not None:
            changes["init_from"] = ""
        seconds = _timed(job.train(run, **changes))
        if (score := job.score(run)) is not None:
            seconds += _timed(score)
        lines = (run / "metrics.jsonl").read_text().splitlines()
    rates = [rate for line in lines if (rate := json.loads(line).get("train/examples_per_second"))]
    if len(rates) < 2:
        raise StudyError(f"pilot of {job.name}: logged no rates of its steps")
    step = job.resolved["batch_size"] / statistics.median(rates[1:])  # the first compiles
    return seconds + step * max(0, steps - PILOT_STEPS)


def _steps(job: Job) -> int:
    """Raises StudyError for a run whose steps follow from its subjects."""
    if not job.resolved["steps"]:
        raise StudyError(f"{job.name}: give its length by `steps`, not by `epochs`, so that its cost can be told")
    return job.resolved["steps"]


def _timed(command: Sequence[str]) -> float:
    clock = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ended.returncode:
        last = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "no message")
        raise StudyError(f"pilot: {' '.join(command[:2])} failed: {last}")
    return time.monotonic() - clock
