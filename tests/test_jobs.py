"""One command as many jobs, in processes of this machine and on a simulated SLURM."""

import argparse
import os
import stat
import sys
import time

import pytest
import submitit

from morphojax import jobs

MODULE = "tests.job_main"
SBATCH = """#!/bin/bash
# Runs every task of a job array here, at once.
cp "$1" "$FAKE/script.sh"
last=$(sed -n 's/^#SBATCH --array=.*-\\([0-9]*\\)%.*/\\1/p' "$1")
for i in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((70 + i)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i bash "$1" > /dev/null 2>&1 < /dev/null &
done
echo Submitted batch job 7
"""
SRUN = """#!/bin/bash
out=${3//%A/7}; out=${out//%a/$SLURM_ARRAY_TASK_ID}
shift 3; exec "$@" > "${out//%t/0}" 2>&1
"""
SACCT = "#!/bin/bash\necho 'JobID|State'\n"


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch):
    monkeypatch.setattr(submitit.AutoExecutor, "which", staticmethod(lambda: "local"))
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.05)


def test_failed_jobs_are_returned_with_their_logs(tmp_path, capsys):
    failed = jobs.run(MODULE, [["ok"], ["fail"], ["raise"], ["die"]], tmp_path / "out.jobs", {})
    assert list(failed) == [2, 3, 4] and "4 jobs submitted; logs in" in capsys.readouterr().out
    assert all("running ignore" in log.read_text() for log in failed.values())
    assert "KeyError, its message withheld" in failed[3].read_text()
    contents = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"patient001" not in contents


def test_a_slurm_job_array(tmp_path, monkeypatch):
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr(submitit.AutoExecutor, "which", staticmethod(lambda: "slurm"))
    parameters = jobs.options("partition=short,time=120,mem=4GB,cpus_per_task=2,array_parallelism=1")
    failed = jobs.run(MODULE, [["ok"], ["fail"]], tmp_path / "out.jobs", parameters)
    assert list(failed) == [2] and failed[2].name == "7_1_0_log.out" and "running" in failed[2].read_text()
    script = (tmp_path / "script.sh").read_text()
    for line in ("array=0-1%1", "partition=short", "time=120", "mem=4GB", "cpus-per-task=2", "job-name=morphojax"):
        assert f"#SBATCH --{line}\n" in script


def test_options_become_parameters_of_submitit(tmp_path):
    assert jobs.options(None) == {} == jobs.options("")
    assert jobs.options("mem_gb=1.5,time=7") == {"mem_gb": 1.5, "timeout_min": 7}
    parameters = jobs.DEFAULTS | {name: convert("1") for name, convert in jobs.OPTIONS.values()}
    submitit.AutoExecutor(tmp_path).update_parameters(**parameters)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus=1", "'gpus=1' is not KEY=VALUE with KEY among time, cpus_per_task"),
        ("partition", "'partition' is not KEY=VALUE"),
        ("partition=", "'partition=' is not KEY=VALUE"),
        ("time=2:00:00", "time=2:00:00 is no number; time is in minutes"),
        ("cpus_per_task=0", "must be above 0"),
        ("mem_gb=nan", "must be above 0"),
        ("time=5,time=6", "time is given twice"),
    ],
)
def test_bad_options_are_refused(text, message):
    with pytest.raises(jobs.LaunchError, match=message):
        jobs.options(text)


def test_the_command_line_of_a_job_has_no_launch_flags():
    argv = [
        "--source=acdc",
        "--launcher",
        "submitit",
        "--shards",
        "3",
        "--strict",
        "--slurm=time=5",
        "--split_seed",
        "1",
    ]
    assert jobs.without_flags(argv) == ["--source=acdc", "--strict", "--split_seed", "1"]
    parser = argparse.ArgumentParser()
    jobs.add_flags(parser)
    assert parser.parse_args([]).launcher is None


def test_a_job_that_ran_out_of_time_is_queued_again():
    command = jobs._Command(MODULE, ("ok",))
    assert command.checkpoint().function == command


def test_an_interruption_cancels_the_jobs(monkeypatch):
    class Job:
        cancelled = False

        def done(self):
            return False

        def cancel(self, check):
            self.cancelled = True

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    job = Job()
    with pytest.raises(KeyboardInterrupt):
        jobs._wait([job])
    assert job.cancelled


def test_a_failed_launch_is_one_error(tmp_path, monkeypatch):
    with pytest.raises(jobs.LaunchError, match="placeholder"):
        jobs.run(MODULE, [["ok"]], tmp_path / "a%j", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(jobs.LaunchError, match=r"cannot be submitted: .*file"):
        jobs.run(MODULE, [["ok"]], tmp_path / "file", {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(jobs.LaunchError, match=r"pip install 'morphojax\[slurm\]'"):
        jobs.run(MODULE, [["ok"]], tmp_path, {})
