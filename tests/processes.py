"""Runs in processes of their own: `python -m morphojax.main` with the encoder of two blocks, on a
tiny cohort.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from morphojax.data.geometry import Grid
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.acdc import Acdc
from tests.data import cohorts
from tests.data.preparing import prepare
from tests.tasks import tiny

ROOT = Path(__file__).parents[1]


def make_dataset(cohort: Path, out: Path) -> Path:
    """Eight subjects: five of training, one of validation, two of test."""
    cohorts.acdc(cohort, subjects=8)
    splits = cohort / "splits.csv"
    rows = [f"patient{n:03d},{'train' if n <= 5 else 'val' if n == 6 else 'test'}" for n in range(1, 9)]
    splits.write_text("subject,split\n" + "\n".join(rows) + "\n")
    settings = {"name": "acdc", "grid": Grid(1.5, 32), "split_file": splits, "pseudonym": Pseudonyms(b"k" * 32)}
    prepare(Acdc(cohort), out, workers=1, progress=False, **settings)
    return out


def arguments(config: str, dataset: Path, run: Path, settings: dict[str, Any], arm: str = "") -> list[str]:
    """The command line that says what `tiny.config` says."""
    keys = tiny.DEFAULTS[config.split("_")[0]] | {"data.dataset": dataset, "workdir": run} | settings
    return [f"--config={ROOT}/configs/{config}.py{arm}", *(f"--config.{key}={value}" for key, value in keys.items())]


def start(*command_line: str, **environment: str) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "tests.faults", *command_line]
    merged = subprocess.STDOUT
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=merged, text=True
    )


def start_two(command_line: list[str], fault: dict[int, dict[str, str]] | None = None) -> list[subprocess.Popen[str]]:
    """Two processes of one run, of two devices each. fault: environment by process."""
    # Programs with collectives between processes abort when they come from the compilation cache.
    environment = {"XLA_FLAGS": devices(2), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    together = [*command_line, "--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    return [start(*together, f"--process={i}", **environment, **(fault or {}).get(i, {})) for i in range(2)]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-3000:]
    return output


def devices(count: int) -> str:
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def logged(run: Path, name: str = "train/loss") -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]
