"""The command that benchmarks everything on a GPU: rows that end badly, and a miniature run on the
CPU.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_report import KINDS, Kind, Row, markdown

ROOT = Path(__file__).parents[2]
# What the process of a row does, by the row's name; its arguments end with the file of values.
PROGRAMS = {
    "good": "write(a=1.5)",
    "aborts": "print('F0000 x.cc:703] Check failed: 256 == 32\\n*** stack trace ***', flush=True); os.abort()",
    "raises": "write(compile_s=2.0); raise ValueError('a loss that is not finite')",
    "lacks": "import torch_that_is_not_there",
    "hangs": "write(compile_s=3.0); import time; time.sleep(60)",
}
HEAD = """
import json, os, sys
def write(**values):
    open(sys.argv[-1], "w").write(json.dumps(values))
assert sys.stdin.readline() == "go\\n"
"""


def start(row: Row) -> gpu.Child:
    return gpu.Child([sys.executable, "-c", HEAD + PROGRAMS[row.name]])


@pytest.mark.parametrize("ahead", [False, True])
def test_rows_that_end_badly_are_reported_and_the_next_runs(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """ahead: a row's process starts while the one before runs."""
    monkeypatch.setitem(KINDS, "encoder", Kind("Encoders", 60, {"compile s": "compile_s", "a": "a"}))
    monkeypatch.setitem(KINDS, "resnet", Kind("With a short time limit", 2, {"compile s": "compile_s"}))
    rows = [Row("resnet" if name == "hangs" else "encoder", name) for name in (*PROGRAMS, "good")]
    seen = []
    gpu.run(rows, start, time.monotonic() + 200, ahead, report=lambda: seen.append([row.status for row in rows]))
    assert [(row.status, row.note) for row in rows] == [
        ("done", ""),
        ("failed", "SIGABRT: F0000 x.cc:703] Check failed: 256 == 32"),
        ("failed", "ValueError: a loss that is not finite"),
        ("skipped", "torch_that_is_not_there is not installed"),
        ("stopped", "after 2 s"),
        ("done", ""),
    ]
    assert [row.values for row in rows] == [{"a": 1.5}, {}, {"compile_s": 2.0}, {}, {"compile_s": 3.0}, {"a": 1.5}]
    assert len(seen) == 12 and seen[0] == ["running"] + ["not reached"] * 5, "reported before and after every row"
    text = markdown(Row("device", "device", values={"device": "a GPU"}), rows, miniature=False)
    assert "# a GPU" in text and "|  | 1.5 |  |\n" in text
    assert "| 2 |  | failed: ValueError: a loss that is not finite |" in text


def test_rows_without_time_are_not_reached() -> None:
    rows = [Row("encoder", "good")]
    gpu.run(rows, start, time.monotonic() + 5, False, report=lambda: None)
    assert rows[0].status == "not reached"
    assert "| not reached |" in markdown(Row("device", "device"), rows, miniature=False)


def test_every_shipped_config_has_a_row() -> None:
    names = {row.name for row in gpu.plan() if row.kind == "train step"}
    configs = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "pretrain_arm"}
    assert configs <= names and {"pretrain_arm:info_nce", "pretrain_arm:byol"} <= names


@pytest.mark.slow  # half a minute in processes of their own; the other tests here read the plan and the tables
def test_a_miniature_run_on_the_cpu(tmp_path: Path) -> None:
    """A train step, and an encoder, from the source tree, in processes of their own."""
    command = [sys.executable, "-m", "benchmarks.gpu", f"--output={tmp_path}", "--minutes=5"]
    command += ["--only=train step segment_sax|encoder unet"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "MORPHOJAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["miniature"] and document["device"]["values"]["backend"] == "cpu"
    step, *others = (row["values"] | {"status": row["status"]} for row in document["rows"])
    assert step["status"] == "done" and step["steps_per_s"] > 0 and step["compile_s"] > 0 and step["loss"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert "| segment_sax | 4 |" in text and len(others) == 1
    for found in others:
        assert found["ms"] > 0 and found["network"] == "unet_small"
        assert found["status"] in ("done", "skipped") and ("ratio" in found) == (found["status"] == "done")
        assert "| unet_small | 32 | float32 | 2 |" in text
