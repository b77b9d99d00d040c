"""Plans, runs, resumes and reports a study: a matrix of arms, labelled sets and seeds.

    python -m analysis.study --config=configs/study_synthetic.py --plan
    python -m analysis.study --config=configs/study_synthetic.py
    python -m analysis.study --config=configs/study_synthetic.py --only=arm=scratch --workers=2
    python -m analysis.study --config=configs/study_synthetic.py --report

Without --plan or --report it runs what is not done, and then reports. It can be stopped and started
at any time, on any machines that share the study's folder. Keys of the config are set as
--config.KEY=VALUE. Exit codes: 0 all is done, 1 not all jobs are, 2 a wrong config or flag, 75
stopped by a signal.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from analysis.study import configs, cost, jobs, report, spec, state, worker
from analysis.study.errors import StudyError
from analysis.study.text import duration, plan_table
from morphojax import jobs as cluster
from morphojax.data.errors import printable
from morphojax.inference.flags import make_parser
from morphojax.train.processes import COMPLETE, FAILED, REFUSED, STOPPED


def parser() -> argparse.ArgumentParser:
    made = make_parser("analysis.study", __doc__, allow_abbrev=False)
    made.add_argument("--config", required=True, help="the study: a file configs/study_*.py")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the cells, what is done, and the cost of the rest")
    what.add_argument("--report", action="store_true", help="report what is done")
    what.add_argument("--worker", metavar="I/N", help="run cells on the I-th of N parts of the CPUs; no report")
    made.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE,...", help="these cells alone")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="number of workers (default: 1)")
    made.add_argument("--launcher", choices=("local", "submitit"), default="local", help="where the workers run")
    made.add_argument("--slurm", metavar="KEY=VALUE,...", help=f"with submitit: among {', '.join(cluster.OPTIONS)}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = parser().parse_known_args(argv)
    try:
        study = spec.only(_study(options.config, rest), options.only)
        if options.workers < 1:
            raise StudyError(f"--workers={options.workers}: give a number, at least 1")
        planned = jobs.plan(study)
        if options.plan:
            return _plan(study, planned, options.workers)
        if options.report:
            return _report(study, planned)
        if options.worker:
            return _work(study, planned, options.worker)
        _launch(study, planned, options, rest)
        return _report(study, planned)
    except (worker.Interrupted, KeyboardInterrupt):
        print("study: stopped; finished steps are saved, and the same command goes on", file=sys.stderr)
        return STOPPED
    except (StudyError, cluster.LaunchError) as error:
        print(f"study: {error}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(f"study: {printable(str(error))}", file=sys.stderr)
        return FAILED


def _study(config: str, rest: Sequence[str]) -> spec.Study:
    loaded = configs.load(config)
    for flag in rest:
        configs.override(loaded, configs.parse(flag), flag)
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


def _launch(study: spec.Study, planned: Sequence[jobs.Job], options: argparse.Namespace, rest: list[str]) -> None:
    """Runs the workers, and waits for them. Raises Interrupted."""
    same = [f"--config={options.config}", *(f"--only={text}" for text in options.only), *rest]
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
    print(f"study: {len(left)} of {len(planned)} jobs are not done; {name} is {found.status}{why}", file=sys.stderr)
    return FAILED


_ORDER = (state.UNUSABLE, state.FAILED, state.STOPPED, state.RUNNING, state.MISSING)  # the most urgent first


if __name__ == "__main__":
    sys.exit(main())
