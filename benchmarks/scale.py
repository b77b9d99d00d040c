"""Time, memory and disk of `prepare` for many subjects, and the cost of kills.

    python -m benchmarks.scale --scratch=DIR               # 2,000 synthetic subjects, two workers
    python -m benchmarks.scale --subjects=40 --kills=2     # a minute, in a temporary folder

The cohort is generated once; one in --scratch is used again, and extended where it is too small.
`python -m morphojax.prepare` runs on a quarter of it, on all of it, and on all of it with kills:
SIGKILL to its process group at seeded random points. The last kill comes while the shards are
assembled, the others when a random number of subjects is done. After each kill the command runs
again. The dataset must equal that of the run without kills, byte for byte.

Memory and processor time are read from /proc every 0.2 s. Memory is the sum of the resident sizes
of the run's processes; memory that they share counts for each. The parent's peak is the kernel's
(VmHWM). Its growth from the smaller to the larger cohort is an upper bound of the memory per
subject. Projections scale the larger run proportionally.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.processes import tree
from morphojax.data.sources.synthetic import generate

TARGET_SUBJECTS = 100_000
PERIOD = 0.2  # seconds between samples


@dataclass
class Usage:
    """Resources of a run: seconds, processor seconds by process id, peak memory in bytes."""

    wall: float = 0.0
    cpu: dict[int, float] = field(default_factory=dict)
    tree: int = 0
    parent: int = 0

    def sample(self, process: int) -> None:
        now = tree(process)
        self.cpu |= {each: seconds for each, (seconds, _) in now.items()}
        self.tree = max(self.tree, sum(resident for _, resident in now.values()))
        for line in _read(Path(f"/proc/{process}/status")).splitlines():
            if line.startswith("VmHWM:"):
                self.parent = max(self.parent, int(line.split()[1]) * 1024)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def run(cohort: Path, output: Path, workers: int, stop: Callable[[], bool] = lambda: False) -> tuple[Usage, bool]:
    """Runs `prepare`, kills it once `stop()`; returns its usage and whether it finished."""
    command = [sys.executable, "-m", "morphojax.prepare", "--source=synthetic", f"--workers={workers}"]
    start, usage, sampled = time.perf_counter(), Usage(), 0.0
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            [*command, f"--input={cohort}", f"--output={output}"],
            stdout=messages, stderr=messages, start_new_session=True,
        )  # fmt: skip
        try:
            while child.poll() is None:
                if time.perf_counter() - sampled >= PERIOD:
                    usage.sample(child.pid)
                    sampled = time.perf_counter()
                if stop():
                    break
                time.sleep(0.01)
            finished = child.poll() is not None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        usage.wall = time.perf_counter() - start
        if finished and code:
            messages.seek(0)
            raise RuntimeError(f"prepare ended with {code}: {messages.read().decode()[-2000:]}")
    return usage, finished


def killed(cohort: Path, output: Path, workers: int, subjects: int, kills: int, seed: int) -> tuple[float, int]:
    """Runs `prepare` with kills until it finishes; returns seconds in all, and the kills."""
    random = np.random.default_rng(seed)
    partial, shards = output / ".partial", output / "sax"

    def done(count: int) -> Callable[[], bool]:
        return lambda: partial.is_dir() and sum(1 for _ in partial.iterdir()) > count

    def assembling() -> bool:
        return shards.is_dir() and any(shards.iterdir())

    counts = np.sort(random.integers(1, subjects, max(kills - 1, 0))).tolist()
    stops = [*(done(c) for c in counts), assembling][:kills]
    seconds, hits = 0.0, 0
    for stop in [*stops, lambda: False]:
        usage, finished = run(cohort, output, workers, stop)
        seconds, hits = seconds + usage.wall, hits + (not finished)
        if finished:
            break
    return seconds, hits


def digests(root: Path) -> dict[str, str]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def size(root: Path) -> int:
    return sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


def first_of(cohort: Path, root: Path, subjects: int) -> Path:
    """Makes a cohort of links to the first subjects of another; `generate` writes its table."""
    shutil.rmtree(root, ignore_errors=True)
    generate(root, 1)
    for number in range(2, subjects + 1):
        (root / f"syn{number:06d}").symlink_to(cohort.resolve() / f"syn{number:06d}")
    return generate(root, subjects)


def measure(scratch: Path, subjects: int, workers: int, kills: int, seed: int) -> None:
    cohort = generate(scratch / "cohort", subjects, workers=workers)
    sizes = {max(subjects // 4, 1): scratch / "quarter", subjects: scratch / "cohort-links"}
    outputs, runs = {}, {}
    for n, links in sizes.items():
        outputs[n] = scratch / f"dataset-{n}"
        shutil.rmtree(outputs[n], ignore_errors=True)
        runs[n], _ = run(first_of(cohort, links, n), outputs[n], workers)
    print(f"{workers} workers on {len(os.sched_getaffinity(0))} cores\n")
    head = ["subjects", "wall s", "subjects/s", "CPU s a subject", "tree peak MB", "parent peak MB", "on disk MB"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for n, usage in runs.items():
        cells = [f"{n}", f"{usage.wall:.1f}", f"{n / usage.wall:.1f}", f"{sum(usage.cpu.values()) / n:.4f}"]
        cells += [f"{b / 1e6:.0f}" for b in (usage.tree, usage.parent)] + [f"{size(outputs[n]) / 1e6:.1f}"]
        print(f"| {' | '.join(cells)} |")

    again = scratch / "dataset-killed"
    shutil.rmtree(again, ignore_errors=True)
    seconds, hits = killed(sizes[subjects], again, workers, subjects, kills, seed)
    same = digests(again) == digests(outputs[subjects])
    print(
        f"\nkilled {hits} times and continued: {seconds:.1f} s in all, {seconds / runs[subjects].wall:.2f} of the run "
        f"without kills; "
        f"the dataset is {'byte-identical' if same else 'NOT the same'}"
    )
    (few, smaller), (_, larger) = runs.items()
    growth = (larger.parent - smaller.parent) / max(subjects - few, 1)
    times = TARGET_SUBJECTS / subjects
    print(
        f"{TARGET_SUBJECTS:,} subjects: {larger.wall * times / 3600:.1f} hours with {workers} workers, "
        f"{size(outputs[subjects]) * times / 1e9:.0f} GB; the parent grows by {growth / 1e3:.1f} kB a subject, to at most "
        f"{(larger.parent + growth * (TARGET_SUBJECTS - subjects)) / 1e6:.0f} MB"
    )
    if not same:
        sys.exit("the interrupted run gave another dataset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills")
    parser.add_argument(
        "--scratch", type=Path, help="folder for cohort and datasets, which are kept; default a temporary folder"
    )
    flags = parser.parse_args()
    if flags.subjects < 4:
        parser.error("--subjects: at least 4")
    with tempfile.TemporaryDirectory() as folder:
        measure(flags.scratch or Path(folder), flags.subjects, flags.workers, flags.kills, flags.seed)


if __name__ == "__main__":
    main()
