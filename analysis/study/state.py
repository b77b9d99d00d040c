"""What is done of a job, read from its run directory.

A run directory of a study holds `study.json`: the cell, the identity of the job, its commands, the
seconds that they took, how the last attempt failed, and, once the job is done, digests of its
results.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.study.errors import StudyError
from analysis.study.jobs import Job
from morphojax.data import json_text
from morphojax.data.store.lock import held
from morphojax.data.store.records import write_atomically
from morphojax.train.digests import NAME as CHECKPOINT_DIGESTS

FILE = "study.json"
DONE, RUNNING, STOPPED, FAILED, MISSING, UNUSABLE = "done", "running", "stopped", "failed", "missing", "unusable"
SCORED = ("scores", "summary")
# What a scoring writes besides, and what a report takes from it. Earlier versions did not write it.
OPTIONAL = {"measures": "clinical errors", "positions": "Dice by slice position"}
_RECORD = {
    "name": str,
    "cell": object,
    "labels": object,
    "identity": str,
    "evaluate": object,
    "commands": [[str]],
    "seconds": {str: float},
    "failure": object,
    "results": {str: str},
}


@dataclasses.dataclass(frozen=True)
class State:
    """status: one of the constants above. why: of a job that failed or is unusable, one line.

    seconds: stage -> seconds so far.
    """

    status: str
    why: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def read(job: Job, mine: bool = False) -> State:
    """What is done of a job. UNUSABLE: its directory holds something else than the job's results:
    another study's run, or one whose config has changed, or half of one. mine: the caller has
    locked it.
    """
    try:  # a kill may leave the record's partial file alone
        record = read_record(job)
    except (OSError, ValueError) as error:
        return State(UNUSABLE, f"{job.run / FILE}: {error}; {_REMOVE}")
    if record is None:
        if job.run.is_dir() and any(not path.name.startswith(FILE) for path in job.run.iterdir()):
            return State(UNUSABLE, f"{job.run}: holds files, but no {FILE}; {_REMOVE}")
        return State(MISSING)
    if record["identity"] != job.identity:
        if not record["results"] and not (job.run / "checkpoints").exists():
            return State(MISSING)  # nothing was trained
        return State(UNUSABLE, f"{job.run}: was made for another config than the study now gives it; {_REMOVE}")
    seconds = record["seconds"]
    if record["results"]:
        if changed := [name for name, digest in record["results"].items() if _digest(job.run / name) != digest]:
            return State(UNUSABLE, f"{job.run / changed[0]}: is gone or has changed since the job was done; {_REMOVE}")
        if record["evaluate"] == _plain(job.evaluate):
            return State(DONE, seconds=seconds)
        seconds = {name: value for name, value in seconds.items() if name != "evaluate"}  # scored in another way
    if held(job.run / "lock") or (not mine and held(job.beside("locks"))):
        return State(RUNNING, seconds=seconds)
    if record["failure"]:
        return State(FAILED, str(record["failure"]), seconds)
    return State(STOPPED, seconds=seconds)


def read_all(jobs: Sequence[Job]) -> dict[str, State]:
    """The states of a study's jobs, by name. A pretraining that was removed is DONE if all cells
    that need it are.
    """
    states = {job.name: read(job) for job in jobs}
    needed = {job.needs.name for job in jobs if job.needs is not None and states[job.name].status != DONE}
    for job in jobs:
        if job.cell is None and states[job.name].status == MISSING and job.name not in needed:
            states[job.name] = State(DONE)
    return states


_REMOVE = "remove the directory to run the job again"


def read_record(job: Job) -> dict[str, Any] | None:
    """The job's record; None before it began. Raises ValueError where it is damaged."""
    path = job.run / FILE
    return parse_record(path) if path.exists() else None


def parse_record(path: Path) -> dict[str, Any]:
    """The record in a file. Raises ValueError where it is damaged, and OSError."""
    return json_text.parse(path.read_bytes(), _RECORD)


def write(job: Job, seconds: dict[str, float], failure: str = "", done: bool = False) -> None:
    """Writes the job's record; with `done` also the digests of its results. An OSError names the
    file.
    """
    job.run.mkdir(parents=True, exist_ok=True)
    record = {
        "name": job.name,
        "cell": None if job.cell is None else dict(job.cell.values),
        "labels": None if job.cell is None else job.cell.labels,
        "identity": job.identity,
        "evaluate": _plain(job.evaluate),
        "commands": job.commands(),
        "seconds": {stage: round(float(value), 3) for stage, value in seconds.items()},
        "failure": failure or None,
        "results": {name: _digest(job.run / name) for name in results(job)} if done else {},
    }
    write_atomically(job.run / FILE, (json.dumps(record, indent=1) + "\n").encode())


def results(job: Job) -> list[str]:
    """Files of the run directory that are the job's result. A pretraining's weights are named by
    the digests of its checkpoints.
    """
    own = ["config.json", "environment.json", "preprocessing.json"]
    if job.evaluate is None:
        digests = sorted(job.run.glob(f"checkpoints/*/{CHECKPOINT_DIGESTS}"))
        return own + [str(path.relative_to(job.run)) for path in digests]
    split = job.evaluate["split"]
    optional = [name for name in OPTIONAL if scoring_file(job.run, name, split).is_file()]
    return own + [str(scoring_file(Path(), name, split)) for name in (*SCORED, *optional)]


def scoring_file(run: Path, name: str, split: str) -> Path:
    """The table of a scoring by its name, as `scores`."""
    return run / "evaluation" / f"{name}_{split}.csv"


def check_results(job: Job) -> None:
    """Raises StudyError where a job that ended well has not written its results."""
    wanted = results(job)
    if missing := [name for name in wanted if not (job.run / name).is_file()]:
        raise StudyError(f"{job.run}: the job ended without an error, but wrote no {missing[0]}")
    if job.evaluate is None and CHECKPOINT_DIGESTS not in wanted[-1]:
        raise StudyError(f"{job.run}: the pretraining ended without an error, but left no checkpoint")


def _plain(evaluate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if evaluate is None else dict(evaluate)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
