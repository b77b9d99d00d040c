"""A tiny cohort, the commands that are tried on it, and what each leaves undisturbed."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.data import cohorts
from tests.reliability import compare, starting

CONFIGS = starting.ROOT / "configs"
STEPS, EVERY = 4, 2
MAIN, PREPARE, EVALUATE, PREDICT = (f"morphojax.{name}" for name in ("main", "prepare", "evaluate", "predict"))
STUDY = "analysis.study"
SMALL = {
    "batch_size": 4, "steps": STEPS, "log_every": 1, "eval_every": EVERY, "save_every": 1, "images_every": 100,
    "dynamics_every": 0, "epochs": 0.0, "model.width": 4, "model.decoder_widths": "(4, 4, 4, 4)",
}  # fmt: skip
COPY_PASTE = "unlabelled.objectives.copy_paste"
TRAININGS = {
    "pretrain": ("pretrain_sax", {"input.slices": 2, "model.table.mlp.hidden_units": 8}),
    "segment": ("segment_sax", {"data.fraction": 1.0, "ema.decay": 0.9, "dynamics_every": EVERY}),
    "self_training": (
        "segment_sax.py:self_training",
        {"data.fraction": 0.4, "unlabelled.batch_size": 4, f"{COPY_PASTE}.start": 0.0, f"{COPY_PASTE}.ramp": 0.5},
    ),
}


@dataclass(frozen=True)
class Place:
    """The folders of a torture. Every command writes to `out`, wherever its result goes later:
    paths are part of some results. imports: seconds that a fresh process needs for them.
    """

    root: Path
    imports: float = 0.0

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def out(self) -> Path:
        return self.work / "out"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def reference(self, name: str) -> Path:
        return self.root / "reference" / name

    def clear(self) -> None:
        for entry in self.work.iterdir():
            shutil.rmtree(entry)

    def left(self, folder: Path | None = None) -> compare.Left:
        """`compare.left` in a process of its own: it starts threads, and a fork must not follow."""
        answer = self.root / "left.json"
        answer.unlink(missing_ok=True)
        folder = folder or self.out
        ended = starting.wait(
            starting.fork(lambda: answer.write_text(json.dumps(compare.left(folder))) and None, self.log), self.log
        )
        if ended.code:
            raise RuntimeError(f"{folder} cannot be compared: {ended.text[-2000:]}")
        return json.loads(answer.read_text())


def make_cohort(root: Path, subjects: int = 8) -> None:
    """ACDC's layout, a split file and a key of pseudonyms."""
    cohort = root / "cohort"
    cohorts.acdc(cohort, subjects=subjects)
    split = ["val" if n == subjects - 2 else "test" if n > subjects - 2 else "train" for n in range(1, subjects + 1)]
    lines = [f"patient{n:03d},{name}" for n, name in enumerate(split, start=1)]
    (root / "splits.csv").write_text("subject,split\n" + "\n".join(lines) + "\n")
    (root / "key").write_text("5" * 64 + "\n")


def prepare(place: Place, workers: int = 1) -> list[str]:
    flags = {"input": place.root / "cohort", "splits": place.root / "splits.csv", "key": place.root / "key"}
    flags |= {"output": place.out, "size": 32, "workers": workers}
    return [PREPARE, "--source=acdc", *(f"--{name}={value}" for name, value in flags.items())]


def train(place: Place, name: str, **changes: object) -> list[str]:
    """A training of TRAININGS. changes: of its config, by dotted key with `__` for the dot."""
    config, settings = TRAININGS[name]
    file, colon, arm = config.partition(".py:")
    settings = SMALL | {"data.dataset": place.reference("prepare"), "workdir": place.out} | settings
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return [
        MAIN,
        f"--config={CONFIGS / file}.py{colon and ':'}{arm}",
        *(f"--config.{k}={v}" for k, v in settings.items()),
    ]


def evaluate(place: Place, *flags: str) -> list[str]:
    run, dataset = place.reference("segment"), place.reference("prepare")
    given = {flag.partition("=")[0] for flag in flags}
    defaults = [f"--run={run}", f"--dataset={dataset}", f"--output={place.out}", "--split=test"]
    return [EVALUATE, *(flag for flag in defaults if flag.partition("=")[0] not in given), *flags]


def study(place: Place, *flags: str) -> list[str]:
    """A pretraining, a cell that starts from it, and the report."""
    data = [f"--config.base.{stage}.data.dataset={place.reference('prepare')}" for stage in ("pretrain", "segment")]
    config = Path(__file__).with_name("study_tiny.py")
    return [STUDY, f"--config={config}", f"--config.folder={place.out}", *data, *flags]


@dataclass(frozen=True)
class Reference:
    """A command and what it leaves undisturbed.

    kind: dataset, run, scores or study. every: of a run, with the checkpoints of all steps.
        begins: after so many seconds it writes. bytes: on disk, in pages.
    """

    name: str
    kind: str
    argv: Sequence[str]
    left: compare.Left
    every: compare.Left
    begins: float
    seconds: float
    bytes: int


NAMES = ("prepare", *TRAININGS, "evaluate", "study")


def make_reference(place: Place, name: str) -> Reference:
    """Runs a command undisturbed, twice where that takes no longer, and keeps the result.

    The first time fills the compilation cache. Raises RuntimeError where it fails or is not
    repeatable.
    """
    argv = {"prepare": prepare, "evaluate": evaluate, "study": study}.get(name, lambda p: train(p, name))(place)
    kind = {"prepare": "dataset", "evaluate": "scores", "study": "study"}.get(name, "run")
    first = undisturbed(place, argv + (["--config.keep_checkpoints=1000"] if kind == "run" else []))
    if kind == "run":
        shutil.copytree(place.out, place.reference(f"{name}_every"))
    place.clear()
    clock = time.time()
    ended = starting.run(argv, place.log)
    left = place.left()
    if ended.code or (compare.half(left, first, kind) and kind != "dataset") or (kind == "dataset" and left != first):
        raise RuntimeError(f"{name} is not repeatable: {compare.differences(left, first)[:5]} {ended.text[-2000:]}")
    files = [p for p in place.out.rglob("*") if p.is_file()]
    begins = min(p.stat().st_mtime for p in files) - clock
    pages = sum(-(-p.stat().st_size // 4096) * 4096 for p in files)
    shutil.move(place.out, place.reference(name))
    return Reference(name, kind, argv, left, first, min(begins, ended.seconds), ended.seconds, pages)


def undisturbed(place: Place, argv: Sequence[str]) -> compare.Left:
    """What a command leaves in `place.out`. Raises RuntimeError where it fails."""
    ended = starting.run(argv, place.log)
    if ended.code:
        raise RuntimeError(f"{' '.join(argv)} fails undisturbed: {ended.text[-3000:]}")
    return place.left()
