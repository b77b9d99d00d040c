"""Damage to files, and the commands that read them afterwards."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.reliability import commands, compare
from tests.reliability.commands import Place

KINDS = ("flip", "truncate", "empty", "delete", "swap", "append")


def damage(folder: Path, random: np.random.Generator) -> tuple[str, str]:
    """Damages one random file below a folder; returns its name and what was done.

    Every kind of file is as likely as any other, however many files there are of it.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files.setdefault(_kind_of_file(path.relative_to(folder)), []).append(path)
    kind_of_file = list(files)[random.integers(len(files))]
    path = files[kind_of_file][random.integers(len(files[kind_of_file]))]
    others = [p for p in sorted(folder.rglob(f"*{path.suffix}")) if p.is_file() and p != path]
    others = [p for p in files[kind_of_file] if p != path] or others
    kinds = [k for k in KINDS if (k != "swap" or others) and (path.stat().st_size or k in ("append", "delete", "swap"))]
    kind = kinds[random.integers(len(kinds))]
    return path.relative_to(folder).as_posix(), apply(kind, path, random, others)


def apply(kind: str, path: Path, random: np.random.Generator, others: Sequence[Path] = ()) -> str:
    """Does one of KINDS to a file; returns it in words."""
    data = bytearray(path.read_bytes())
    if kind == "flip":
        position, bit = int(random.integers(len(data))), int(random.integers(8))
        data[position] ^= 1 << bit
        path.write_bytes(data)
        return f"flip of bit {bit} of byte {position}"
    if kind in ("truncate", "empty"):
        length = int(random.integers(len(data))) if kind == "truncate" else 0
        path.write_bytes(data[:length])
        return f"truncation from {len(data)} to {length} bytes"
    if kind == "delete":
        path.unlink()
        return "deletion"
    if kind == "append":
        more = random.bytes(int(random.integers(1, 65)))
        path.write_bytes(data + more)
        return f"{len(more)} bytes more"
    other = others[random.integers(len(others))]
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return f"swap with {other.parent.name}/{other.name}"


def _kind_of_file(name: Path) -> str:
    """The name without numbers, and without the random names of a checkpoint's arrays."""
    return re.sub(r"[0-9a-f]{32}|\d+", "#", name.as_posix())


@dataclass(frozen=True)
class Reader:
    """A command that reads a folder which may be damaged.

    source: the folder that is copied to `target` and damaged. argv: the command. kind: of what it
        leaves. resumes: it goes on in the damaged folder itself, which is then `place.out`.
    """

    name: str
    source: Path
    argv: Sequence[str]
    kind: str
    resumes: bool = False

    def target(self, place: Place) -> Path:
        return place.out if self.resumes else place.work / "target"

    @property
    def checkpoints(self) -> list[str]:
        """The steps of the source's checkpoints that another may replace."""
        folder = self.source / compare.CHECKPOINTS
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() and not self.resumes else []


def readers(place: Place) -> list[Reader]:
    """The references of all commands must exist."""
    target, dataset = place.work / "target", place.reference("prepare")
    run = f"--run={target}"
    images = place.root / "images"
    for n in (7, 8):
        folder = place.root / "cohort" / "training" / f"patient{n:03d}"
        for path in sorted(folder.glob("*frame??.nii.gz")):
            (images / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, images / folder.name)
    predict = [commands.PREDICT, run, f"--input={images}", f"--output={place.out}"]
    short = {"steps": 2, "eval_every": 0}
    tuned = commands.train(place, "segment", init_from=target, **short)
    made = [
        Reader("dataset, evaluate", dataset, commands.evaluate(place, f"--dataset={target}"), "scores"),
        Reader("dataset, train", dataset, commands.train(place, "pretrain", data__dataset=target, **short), "run"),
        Reader("run, evaluate", place.reference("segment"), commands.evaluate(place, run), "scores"),
        Reader(
            "run, evaluate --checkpoint=last --weights=ema",
            place.reference("segment"),
            commands.evaluate(place, run, "--checkpoint=last", "--weights=ema"),
            "scores",
        ),
        Reader("run, predict", place.reference("segment"), predict, "scores"),
        Reader("pretraining, fine-tune", place.reference("pretrain"), tuned, "run"),
        Reader("study, report", place.reference("study"), commands.study(place, "--report"), "study", True),
    ]
    for name in commands.TRAININGS:
        made.append(
            Reader(f"unfinished {name}, resume", unfinished(place, name), commands.train(place, name), "run", True)
        )
    return made


def unfinished(place: Place, name: str) -> Path:
    """A training that was killed after the save of the last step but one."""
    folder = place.reference(f"{name}_unfinished")
    if not folder.exists():
        shutil.copytree(place.reference(f"{name}_every"), folder)
        for step in (folder / compare.CHECKPOINTS).iterdir():
            if int(step.name) == commands.STEPS or int(step.name) < commands.EVERY:
                shutil.rmtree(step)
    return folder
