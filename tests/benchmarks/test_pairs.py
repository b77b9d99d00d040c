"""Paired ratios, and an exit that does not wait for threads, handlers or child processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import pairs

ROOT = Path(__file__).parents[2]
LINGERS = """
import atexit, subprocess, threading, time
from benchmarks import pairs
child = subprocess.Popen(["sleep", "100"])
threading.Thread(target=time.sleep, args=(100,)).start()
atexit.register(time.sleep, 100)
print(child.pid)
pairs.finish(3)
"""


def test_a_ratio_is_the_other_time_over_ours() -> None:
    ours, pytorch = [
        [pairs.Time(w, p) for w, p in times] for times in ([(2, 1), (4, 1), (1, 1)], [(3, 2), (4, 3), (4, 4)])
    ]
    values = pairs.compare(ours, pytorch, processor=True)
    assert values == {
        "ms": 2000, "pytorch_ms": 4000, "ratio": "1.50 (1.00 to 4.00)", "processor_ratio": "3.00 (2.00 to 4.00)"
    }  # fmt: skip


def test_the_bandwidth_of_a_device_is_known_by_its_name() -> None:
    assert pairs.bandwidth("NVIDIA H200") == 4800 and pairs.bandwidth("NVIDIA H100 80GB HBM3") == 3350
    assert pairs.bandwidth("NVIDIA H100 PCIe") == 2000 and pairs.bandwidth("cpu") is None


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_finish_ends_the_process_at_once_with_those_that_it_started() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LINGERS], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 3 and time.monotonic() - start < 60, done.stderr
    state = Path(f"/proc/{int(done.stdout)}/stat")  # its output arrives although it is a pipe
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
