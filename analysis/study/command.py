"""What `morphojax study` does, by its flags."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from analysis.study import cost, jobs, report, spec, state, worker
from analysis.study.errors import StudyError
from analysis.study.text import duration, plan_table
from morphojax import interrupts
from morphojax import jobs as cluster
from morphojax.data.errors import printable
from morphojax.exit_codes import COMPLETE, FAILED, STOPPED
from morphojax.tasks import config_files


def run(options: argparse.Namespace) -> int:
    """options.keys: flags `--config.KEY=VALUE`. Returns the exit code. Raises ValueError for an
    error that a user can mend.
    """
    try:
        with interrupts.finishes("stopping: jobs finish their step and save; Ctrl-C again stops at once"):
            return _run(options)
    except (worker.Interrupted, KeyboardInterrupt):
        print("stopped; finished steps are saved, and the same command goes on", file=sys.stderr)
        return STOPPED


def _run(options: argparse.Namespace) -> int:
    study = spec.only(_study(options.config, options.keys), options.only)
    if options.workers < 1:
        raise StudyError(f"--workers={options.workers}: give a number, at least 1")
    planned = jobs.plan(study)
    if options.plan:
        return _plan(study, planned, options.workers)
    if options.report:
        return _report(study, planned)
    if options.worker:
        return _work(study, planned, options.worker)
    _launch(study, planned, options)
    return _report(study, planned)


def _study(config: str, rest: Sequence[str]) -> spec.Study:
    loaded = config_files.load(config)
    config_files.override_from_flags(loaded, rest)
    return spec.from_config(loaded)


def _plan(study: spec.Study, planned: Sequence[jobs.Job], workers: int) -> int:
    states = state.read_all(planned)
    print(plan_table(study, planned, states))
    _use_cpus(1, workers)  # a pilot must be as slow as a job
    unfinished = [job for job in planned if states[job.name].status != state.DONE]
    known = cost.from_states(planned, states)
    known = cost.pilots(study.folder, unfinished, known, workers, print)
    seconds = cost.left(planned, states, known)
    print(f"left: {duration(seconds or 0)} of one worker, {duration((seconds or 0) / workers)} with {workers}")
    return COMPLETE


def _work(study: spec.Study, planned: Sequence[jobs.Job], part: str) -> int:
    try:
        number, of = map(int, part.split("/"))
    except ValueError:
        raise StudyError(f"--worker={part}: give it as 1/2: worker 1 of 2") from None
    if not 1 <= number <= of:
        raise StudyError(f"--worker={part}: workers are numbered from 1")
    _use_cpus(number, of)
    ended: dict[str, state.State] = {}
    start = cost.from_states(planned, states := state.read_all(planned))

    def on_end(job: jobs.Job, found: state.State) -> None:
        was_done = states[job.name].status == state.DONE
        states[job.name] = ended[job.name] = found
        if was_done:
            return
        for other in planned:  # what other workers did since
            if other is not job and states[other.name].status != state.DONE:
                states[other.name] = state.read(other)
        left = cost.left(planned, states, start | cost.from_states(planned, states))
        time_left = "" if left is None else f"; left: {duration(left / of)}"
        done = sum(s.status == state.DONE for s in states.values())
        took = f" in {duration(sum(found.seconds.values()))}" if found.status == state.DONE else f": {found.why}"
        print(f"[{done}/{len(planned)}] {job.name}: {found.status}{took}{time_left}", flush=True)

    worker.work(planned, on_end)
    bad = any(s.status in (state.FAILED, state.UNUSABLE) for s in ended.values())
    return FAILED if bad else COMPLETE


def _use_cpus(number: int, of: int) -> None:
    """This process and its children run on the number-th of equal parts of the CPUs."""
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        if part := cpus[(number - 1) * len(cpus) // of : number * len(cpus) // of]:
            os.sched_setaffinity(0, part)


def _launch(study: spec.Study, planned: Sequence[jobs.Job], options: argparse.Namespace) -> None:
    """Runs the workers, and waits for them. Raises Interrupted."""
    same = [f"--config={options.config}", *(f"--only={text}" for text in options.only), *options.keys]
    if options.slurm and options.launcher == "local":
        raise StudyError("--slurm: needs --launcher=submitit")
    if options.launcher == "submitit":
        argvs = [[*same, "--worker=1/1"]] * options.workers
        cluster.run("analysis.study.__main__", argvs, study.folder / "jobs", cluster.options(options.slurm))
    elif options.workers == 1:
        _work(study, planned, "1/1")
    else:
        _local_workers(options.workers, same)


def _local_workers(workers: int, same: list[str]) -> None:
    """A process per worker; signals reach all of them."""
    command = [sys.executable, "-m", "analysis.study", *same]
    running = [subprocess.Popen([*command, f"--worker={n}/{workers}"]) for n in range(1, workers + 1)]

    def forward(signum: int, frame: object) -> None:
        for process in running:
            process.send_signal(signum)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    codes = [process.wait() for process in running]
    for number, handler in before.items():
        signal.signal(number, handler)
    if STOPPED in codes:
        raise worker.Interrupted


def _report(study: spec.Study, planned: Sequence[jobs.Job]) -> int:
    """Writes the report of what is done. FAILED where a job is not, and a line that says why."""
    states = state.read_all(planned)
    left = {name: found for name, found in states.items() if found.status != state.DONE}
    if any(states[job.name].status == state.DONE for job in planned if job.cell is not None) or not left:
        print("\n".join(f"written: {path}" for path in report.write(study, planned, states)))
    if not left:
        return COMPLETE
    name, found = min(left.items(), key=lambda item: _ORDER.index(item[1].status))
    why = f": {printable(found.why)}" if found.why else ""
    print(f"{len(left)} of {len(planned)} jobs are not done; {name} is {found.status}{why}", file=sys.stderr)
    return FAILED


_ORDER = (state.UNUSABLE, state.FAILED, state.STOPPED, state.RUNNING, state.MISSING)  # the most urgent first
