"""The rows of `python -m benchmarks.gpu`, and their tables in Markdown and JSON."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMES = {"compile s": "compile_s", "PyTorch compile s": "pytorch_compile_s", "ms": "ms", "PyTorch ms": "pytorch_ms"}
RATIOS = {"PyTorch / ours": "ratio", "the same, processor time": "processor_ratio"}


@dataclasses.dataclass(frozen=True)
class Kind:
    title: str
    seconds: float  # that a row may take
    columns: dict[str, str]  # head of the table -> name of the value


KINDS = {
    "device": Kind("Device", 60, {}),
    "train step": Kind(
        "Train steps of the shipped configs",
        100,
        {
            "config": "config", "batch": "batch", "compile init s": "init_s", "compile step s": "compile_s", "steps/s": "steps_per_s",
            "examples/s": "examples_per_s", "peak MiB": "mib", "last loss": "loss",
        },
    ),
    "segmentation": Kind(
        "The default segmentation",
        180,
        {
            "config": "config", "make the cohort s": "cohort_s", "train s": "train_s", "steps": "steps", "evaluate s": "evaluate_s",
            "validation Dice": "validation_dice", "test Dice": "test_dice",
        },
    ),
    "resnet": Kind(
        "A train step of ResNet against PyTorch",
        150,
        {"network": "network", "batch": "batch"} | TIMES | RATIOS
        | {"% of the memory-bandwidth limit": "bandwidth_percent", "GB per step": "gb_per_step"},
    ),
    "encoder": Kind(
        "Encoders, forward and backward, against PyTorch",
        120,
        {"network": "network", "size": "size", "dtype": "dtype", "batch": "batch"} | TIMES | RATIOS
        | {"MiB": "mib", "PyTorch MiB": "pytorch_mib"},
    ),
}  # fmt: skip


@dataclasses.dataclass
class Row:
    kind: str
    name: str
    status: str = "not reached"  # running, done, failed, stopped, skipped
    note: str = ""
    seconds: float = 0.0
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    log: list[str] = dataclasses.field(default_factory=list)  # of a row that failed: the end of its output


def markdown(device: Row, rows: Sequence[Row], miniature: bool) -> str:
    """The device, and a table for every kind of row."""
    about = device.values
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items() if version)
    lines = [
        f"# {about.get('device', 'unknown device')}",
        "",
        f"{about.get('devices', '?')} device(s), backend {about.get('backend', '?')}, {about.get('cores', '?')} cores; "
        f"Python {about.get('python', '?')}, {versions}; XLA_FLAGS `{about.get('XLA_FLAGS', '')}`.",
    ]
    if about.get("missing"):
        lines += ["", f"Dependencies of the project that are not installed: {', '.join(about['missing'])}."]
    if device.note:
        lines += ["", f"**{device.note}**"]
    if miniature:
        lines += ["", "**Miniature: tiny shapes, to test the command. The times say nothing about speed.**"]
    for kind, description in KINDS.items():
        of_kind = [row for row in rows if row.kind == kind]
        if not of_kind:
            continue
        heads = [*description.columns, "note"]
        lines += ["", f"## {description.title}", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        for row in of_kind:
            values = {"config": row.name, "network": row.name} | row.values
            cells = [_cell(values.get(name)) for name in description.columns.values()]
            note = "" if row.status == "done" else f"{row.status}{': ' if row.note else ''}{row.note}"
            lines.append(f"| {' | '.join(cells)} | {note.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(output: Path, device: Row, rows: Sequence[Row], miniature: bool) -> None:
    document = {
        "device": dataclasses.asdict(device),
        "miniature": miniature,
        "rows": [dataclasses.asdict(r) for r in rows],
    }
    for name, text in (
        ("gpu.json", json.dumps(document, indent=1) + "\n"),
        ("gpu.md", markdown(device, rows, miniature)),
    ):
        part = output / f"{name}.part"
        part.write_text(text)
        part.replace(output / name)
