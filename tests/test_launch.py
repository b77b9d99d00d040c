"""The recipes of launch/ for several machines, with stand-ins for srun, scontrol, a TPU pod and
Kubernetes.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import pretrain_sax
from morphojax import exit_codes
from morphojax.train import checkpoint
from tests.processes import ROOT, arguments, free_port, make_dataset

FLAGS = ("--config=configs/pretrain_sax.py", "--config.seed=1 2")
SRUN = """
codes=0; children=()
for i in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & children+=($!)
done
for child in "${children[@]}"; do wait "$child" || { code=$?; [ $code -gt $codes ] && codes=$code; }; done
exit $codes  # the highest, as srun
"""
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment with stand-ins for srun and scontrol, which writes what it is asked."""
    bin = tmp_path / "bin"
    bin.mkdir()
    script(bin / "srun", SRUN)
    script(bin / "scontrol", f'echo "$@" >> {tmp_path}/scontrol')
    return {"PATH": f"{bin}:{os.environ['PATH']}"} | SLURM


def container() -> dict[str, Any]:
    return kubernetes()[1]["spec"]["template"]["spec"]["containers"][0]


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text()))


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    merged = subprocess.STDOUT
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=merged, text=True, check=False
    )


@pytest.mark.parametrize("code", [0, 1, 2, exit_codes.STOPPED])
def test_slurm_requeues_a_run_that_saved_and_stopped(code: int, cluster: dict[str, str], tmp_path: Path) -> None:
    stand_in = script(tmp_path / "python", f"printf '<%s>' \"$@\"; exit $((SLURM_PROCID ? {code} : 0))")
    done = run(["launch/slurm.sh", *FLAGS], **cluster, PYTHON=str(stand_in))
    assert done.returncode == code
    expected = "".join(f"<{word}>" for word in ("-m", "morphojax.main", "--distributed", *FLAGS))
    assert done.stdout == expected * 2
    asked = tmp_path / "scontrol"
    assert asked.exists() == (code == exit_codes.STOPPED)
    assert not asked.exists() or asked.read_text() == "requeue 7\n"


@pytest.mark.parametrize("code", [0, exit_codes.STOPPED])
def test_a_tpu_host_runs_the_program(code: int, tmp_path: Path) -> None:
    stand_in = script(tmp_path / "python", f"printf '<%s>' \"$@\"; exit {code}")
    done = run(["launch/tpu.sh", *FLAGS], PYTHON=str(stand_in))
    assert (done.returncode, done.stdout) == (
        code,
        "".join(f"<{word}>" for word in ("-m", "morphojax.main", "--distributed", *FLAGS)),
    )


def test_a_pod_runs_the_program(tmp_path: Path) -> None:
    stand_in = script(tmp_path / "python", "printf '<%s>' \"$@\"")
    environment = {one["name"]: one["value"] for one in container()["env"]} | {"PYTHON": str(stand_in)}
    done = run([*container()["command"], *FLAGS], **environment, JOB_COMPLETION_INDEX="1")
    words = ("--distributed", "--coordinator=morphojax-0.morphojax:55527", "--processes=2", "--process=1", *FLAGS)
    assert done.stdout == "<-m><morphojax.main>" + "".join(f"<{word}>" for word in words)


def test_the_pods_find_each_other_and_their_config_exists() -> None:
    service, job = kubernetes()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    environment = {one["name"]: one["value"] for one in container()["env"]}
    host, port = environment["COORDINATOR"].split(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert (pod["subdomain"], service["spec"]["clusterIP"]) == (service["metadata"]["name"], "None")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert container()["ports"] == [{"containerPort": int(port)}]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(environment["PROCESSES"])
    rules = {str(rule["onExitCodes"]["values"]): rule["action"] for rule in spec["podFailurePolicy"]["rules"][:2]}
    assert rules == {f"[{exit_codes.REFUSED}]": "FailJob", f"[{exit_codes.STOPPED}]": "Ignore"}
    config, *keys = container()["args"]
    assert (ROOT / config.removeprefix("--config=")).is_file()
    flat = dict(key.removeprefix("--config.").split("=") for key in keys)
    pretrain_sax.get_config().update_from_flattened_dict(flat)


SETTINGS = {"batch_size": 4, "steps": 2, "eval_every": 0, "save_every": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cohort"), tmp_path_factory.mktemp("prepared") / "dataset")


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    """An environment in which PYTHON runs the program with the encoder of two blocks."""
    stand_in = script(tmp_path / "tiny", f'shift 2; exec {sys.executable} -m tests.faults "$@"')
    return {"PYTHON": str(stand_in), "JAX_COORDINATOR_PORT": str(free_port()), "JAX_ENABLE_COMPILATION_CACHE": "false"}


def together(command: list[str], environments: list[dict[str, str]]) -> None:
    """Runs the command in all environments at once."""
    children = [subprocess.Popen(command, cwd=ROOT, env=os.environ | one) for one in environments]
    assert [child.wait(timeout=300) for child in children] == [0] * len(children)


@pytest.mark.slow
def test_slurm_trains_stops_and_resumes(cluster, here, dataset: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"steps": 3}  # the signal of step 1 stops the run at step 2
    command = ["launch/slurm.sh", *arguments("pretrain_sax", dataset, tmp_path / "run", settings)]
    stopped = run(command, **cluster, **here, FAULT="terminate", FAULT_STEP="1")
    assert stopped.returncode == exit_codes.STOPPED, stopped.stdout[-3000:]
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    requeued = run(command, **cluster, **here)
    assert requeued.returncode == 0 and "resumed at step 2 of 3" in requeued.stdout, requeued.stdout[-3000:]
    assert "on 2 cpu device(s)" in requeued.stdout
    assert checkpoint.find(tmp_path / "run", "last").name == "3"


@pytest.mark.slow
def test_a_tpu_pod_trains(here, dataset: Path, tmp_path: Path) -> None:
    """JAX takes the addresses from the variables of a TPU node pool; the devices are CPUs."""
    command = ["launch/tpu.sh", *arguments("pretrain_sax", dataset, tmp_path / "run", SETTINGS)]
    pod = {"JAX_FORCE_TPU_INIT": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost,localhost"}
    pod |= {"MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}
    together(command, [here | pod | {"TPU_WORKER_ID": str(i)} for i in range(2)])
    assert checkpoint.find(tmp_path / "run", "last").name == "2"


@pytest.mark.slow
def test_two_pods_train(here, dataset: Path, tmp_path: Path) -> None:
    command = [*container()["command"], *arguments("pretrain_sax", dataset, tmp_path / "run", SETTINGS)]
    pods = here | {"COORDINATOR": f"127.0.0.1:{free_port()}", "PROCESSES": "2"}
    together(command, [pods | {"JOB_COMPLETION_INDEX": str(i)} for i in range(2)])
    assert checkpoint.find(tmp_path / "run", "last").name == "2"
