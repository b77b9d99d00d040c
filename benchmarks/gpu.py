"""One command that tests and times the project on a GPU, within nine minutes.

    python -m benchmarks.gpu --output=DIR                  # every row, most important first
    python -m benchmarks.gpu --output=DIR --only=encoder   # rows that match a regular expression
    python -m benchmarks.gpu --output=DIR --miniature      # tiny shapes: a test on the CPU

The machine needs no network. It needs JAX, flax and optax; the comparisons also need PyTorch and
transformers, and the train steps and the segmentation the project's other dependencies. A row that
lacks a package names it. Run the command from the root of the source tree, which need not be
installed.

Rows:
    train step     of a shipped config: seconds to compile, then steps/s and peak memory
    segmentation   configs/segment_sax.py as its commands run it, to the Dice of the test subjects
    resnet         the train step of a ResNet-50 against compiled PyTorch (benchmarks/train_step.py)
    encoder        every family of encoders against compiled PyTorch (benchmarks/encoders.py)

Every row runs in a process of its own, with a time limit: a row that fails or that XLA aborts is
reported in one line, and the next one runs. DIR/gpu.md and DIR/gpu.json are written again whenever
a row ends. Rows that --minutes leaves no time for are listed as not reached. On a machine with
eight cores or more the next row imports and traces while one is measured.

Compile seconds are those of a machine that never compiled the program, unless
JAX_COMPILATION_CACHE_DIR is set. The exit status is 1 if a row failed.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu_report import KINDS, Row, write

ROOT = Path(__file__).parents[1]
MARGIN = 15  # seconds: with less left, no row is started
# The most important configs, in this order; the others come after the encoders.
FIRST = ("segment_sax", "pretrain_sax")
SECOND = (
    "segment_acdc", "pretrain_acdc", "pretrain_sax_hager", "probe", "pretrain_multiplane", "segment_la_4ch", "pretrain_la_4ch"
)  # fmt: skip
ENCODERS = ("resnet18", "vit_small_16", "swin_tiny", "convnext_tiny", "unet")


def plan() -> list[Row]:
    """Every row, most important first."""
    configs = sorted(
        path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "pretrain_arm")
    )
    last = [name for name in configs if name not in FIRST + SECOND]
    try:
        from configs.pretrain_arm import OBJECTIVES
    except ImportError:  # ml_collections is not installed: the rows of the other configs say so
        OBJECTIVES = {}
    return [
        *(Row("train step", name) for name in FIRST if name in configs),
        Row("segmentation", "segment_sax"),
        Row("resnet", "resnet50"),
        *(Row("train step", name) for name in SECOND if name in configs),
        *(Row("encoder", name) for name in ENCODERS),
        *(Row("train step", name) for name in last),
        *(Row("train step", f"pretrain_arm:{arm}") for arm in OBJECTIVES),
    ]


class Child:
    """The process of a row. It starts at once, and compiles nothing before `go`."""

    def __init__(self, command: Sequence[str]):
        self._folder = tempfile.TemporaryDirectory()
        self._file, log = (Path(self._folder.name) / name for name in ("values.json", "log"))
        self._log = log.open("w+")
        # Processes share the device: none may take most of its memory at the start.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        self._process = subprocess.Popen(
            [*command, str(self._file)], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=self._log,
            stderr=self._log, start_new_session=True,
        )  # fmt: skip

    def go(self, row: Row, seconds: float) -> None:
        """Lets the row compile and measure, and fills it in."""
        start = time.monotonic()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has already failed
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        status = self._process.poll()
        row.seconds = time.monotonic() - start
        if self._file.is_file():
            row.values = json.loads(self._file.read_text())
        self._log.seek(0)
        log = self._log.read()
        if status == 0:
            row.status = "done"
            return
        row.log, error = log.splitlines()[-40:], one_line(log, status or 0)
        if status is None:
            row.status, row.note = "stopped", f"after {row.seconds:.0f} s"
        elif missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", error):
            row.status, row.note = "skipped", f"{missing[1]} is not installed"
        else:
            row.status, row.note = "failed", error

    def close(self) -> None:
        """Ends the process, and every process that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._log.close()
        self._folder.cleanup()


def one_line(log: str, status: int) -> str:
    """The error in a log: a failed check of XLA, else the last exception, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    checks = [line for line in lines if "Check failed" in line]
    exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    text = (checks or exceptions[-1:] or lines[-1:] or ["no message"])[0]
    return f"{signal.Signals(-status).name}: {text}" if status < 0 else text


def run(
    rows: Sequence[Row], start: Callable[[Row], Child], deadline: float, ahead: bool, report: Callable[[], None]
) -> None:
    """Runs the rows in turn until the deadline (time.monotonic). Calls `report` around each.

    ahead: a row's process starts while the one before is measured.
    """
    children: list[Child] = []
    try:
        for number, row in enumerate(rows):
            if deadline - time.monotonic() < MARGIN:
                return
            children = children or [start(row)]
            if ahead:
                children += [start(following) for following in rows[number + 1 : number + 2]]
            row.status = "running"
            report()
            children[0].go(row, min(KINDS[row.kind].seconds, deadline - time.monotonic()))
            children.pop(0).close()
            report()
    finally:
        for child in children:
            child.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.md and gpu.json")
    parser.add_argument("--minutes", type=float, default=9, help="for everything (default: 9)")
    parser.add_argument(
        "--only", default="", help="rows whose 'kind name' this regular expression finds (default: all)"
    )
    parser.add_argument("--miniature", action="store_true", help="tiny shapes; always on a CPU")
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no row outlives the command
    deadline = time.monotonic() + 60 * flags.minutes
    rows = [row for row in plan() if re.search(flags.only, f"{row.kind} {row.name}")]
    if not rows:
        parser.error(f"--only={flags.only}: finds none of {', '.join(f'{row.kind} {row.name}' for row in plan())}")
    flags.output.mkdir(parents=True, exist_ok=True)
    device, miniature = Row("device", "device"), flags.miniature

    def start(row: Row) -> Child:
        small = ["--miniature"] if miniature else []
        return Child([sys.executable, "-m", "benchmarks.gpu_rows", "--wait", *small, row.kind, row.name])

    run([device], start, deadline, ahead=False, report=lambda: None)
    miniature = miniature or device.values.get("backend") == "cpu"

    reported: list[Row] = []

    def report() -> None:
        write(flags.output, device, rows, miniature)
        for row in rows:
            if row.status not in ("not reached", "running") and row not in reported:
                reported.append(row)
                print(f"{row.kind} {row.name}: {row.status} {row.note} ({row.seconds:.0f} s)", flush=True)

    report()
    run(rows, start, deadline, ahead=(os.cpu_count() or 1) >= 8, report=report)
    print(f"\n{(flags.output / 'gpu.md').read_text()}")
    return int(any(row.status in ("failed", "stopped") for row in [device, *rows]))


if __name__ == "__main__":
    sys.exit(main())
