"""Runs a command as many jobs, by submitit: a SLURM job array, or without SLURM processes."""

import argparse
import dataclasses
import importlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morphojax.data.errors import NamedError
from morphojax.progress import bar as progress_bar

POLL_SECONDS = 1.0
# Key of --slurm -> the name of submitit's parameter, and its type.
OPTIONS = {
    "time": ("timeout_min", int),
    "cpus_per_task": ("cpus_per_task", int),
    "mem_gb": ("mem_gb", float),
    "array_parallelism": ("slurm_array_parallelism", int),
} | {
    key: (f"slurm_{key}", str)
    for key in (
        "partition", "account", "qos", "mem", "mem_per_cpu", "constraint", "exclude", "nodelist", "dependency", "mail_type", "mail_user",
        "comment",
    )
}  # fmt: skip
# submitit's own default time limits are too short: 5 minutes, and 2 without SLURM.
DEFAULTS = {"name": "morphojax", "timeout_min": 240, "stderr_to_stdout": True}


class LaunchError(NamedError):
    """Jobs that cannot be launched as asked. The message says what to do."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher", choices=("submitit",), help="prepare the shards as jobs, then assemble; needs --shards"
    )
    parser.add_argument("--shards", type=int, metavar="N", help="with --launcher: how many jobs")
    parser.add_argument(
        "--slurm", metavar="KEY=VALUE,...",
        help=f"with --launcher: settings of each job, among {', '.join(OPTIONS)}; time is in minutes, 240 by default",
    )  # fmt: skip


def without_flags(argv: Sequence[str]) -> list[str]:
    """A command line without the flags of `add_flags`: what a job must not launch again."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser)
    return parser.parse_known_args(argv)[1]


def options(text: str | None) -> dict[str, Any]:
    """submitit's parameters from the text of --slurm. Raises LaunchError."""
    parameters: dict[str, Any] = {}
    for pair in text.split(",") if text else ():
        key, _, value = (part.strip() for part in pair.partition("="))
        if key not in OPTIONS or not value:
            raise LaunchError(f"--slurm: {pair!r} is not KEY=VALUE with KEY among {', '.join(OPTIONS)}")
        name, convert = OPTIONS[key]
        if name in parameters:
            raise LaunchError(f"--slurm: {key} is given twice")
        try:
            parameters[name] = convert(value)
        except ValueError:
            raise LaunchError(f"--slurm: {key}={value} is no number; time is in minutes") from None
        if convert is not str and not 0 < parameters[name] < 1e6:
            raise LaunchError(f"--slurm: {key}={value} must be above 0 and below a million")
    return parameters


@dataclasses.dataclass(frozen=True)
class _Command:
    """Calls a module's `main` with arguments. Only these are pickled for a job: never ids."""

    module: str
    argv: tuple[str, ...]

    def __call__(self) -> int:
        # The log must name no subject, but warnings and unexpected errors may.
        os.environ["PYTHONWARNINGS"] = "ignore"  # for worker processes
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(self.module).main(list(self.argv))
        except Exception as error:
            traceback.print_tb(error.__traceback__)
            print(f"{type(error).__name__}, its message withheld", file=sys.stderr)
            return 1

    def checkpoint(self) -> Any:
        """Queues the job again, up to three times: submitit calls this when time runs out."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def run(module: str, argvs: Sequence[Sequence[str]], folder: Path, parameters: Mapping[str, Any]) -> dict[int, Path]:
    """Runs `module.main(argv)` as one job per command line, and waits for all of them.

    parameters: as `options` returns them. Logs and submitit's files go to a new folder below
        `folder`. An interruption cancels the jobs.
    Returns the logs of the jobs that failed, by number from 1. Raises LaunchError.
    """
    try:
        import submitit
    except ImportError as error:
        raise LaunchError("--launcher=submitit needs submitit: pip install 'morphojax[slurm]'") from error
    folder = folder.resolve() / time.strftime("%Y%m%d-%H%M%S")
    if "%" in str(folder):
        raise LaunchError(f"{folder}: submitit and SLURM read % as a placeholder; name another folder")
    try:
        executor = submitit.AutoExecutor(folder)
        executor.update_parameters(**DEFAULTS | dict(parameters))
        jobs = executor.submit_array([_Command(module, tuple(argv)) for argv in argvs])
    except (RuntimeError, OSError) as error:
        raise LaunchError(f"the jobs cannot be submitted: {error}") from error
    print(f"{len(jobs)} jobs submitted; logs in {folder}")
    return _wait(jobs)


def _wait(jobs: Sequence[Any]) -> dict[int, Path]:
    """Waits for all jobs; returns the logs of those that failed, by number from 1."""
    waiting, failed = dict(enumerate(jobs, 1)), {}
    try:
        with progress_bar(total=len(jobs), desc="jobs", unit="job") as bar:
            while waiting:
                for number in [n for n, job in waiting.items() if job.done()]:
                    job = waiting.pop(number)
                    if not _succeeded(job):
                        failed[number] = job.paths.stdout
                        bar.set_postfix(failed=len(failed))
                    bar.update()
                time.sleep(POLL_SECONDS if waiting else 0)
    except BaseException:
        for job in waiting.values():
            job.cancel(check=False)
        raise
    return dict(sorted(failed.items()))


def _succeeded(job: Any) -> bool:
    try:
        return job.result() == 0
    except Exception:  # however the job failed, its log says more than submitit's error
        return False
