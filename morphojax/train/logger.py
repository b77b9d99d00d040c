"""The log of a run: TensorBoard events and metrics.jsonl."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tensorboardX import summary

from morphojax.data import json_text
from morphojax.data.store.records import write_atomically
from morphojax.train import devices
from morphojax.train.run import RunError
from morphojax.train.task import TrainingError
from morphojax.train.tensorboard import Events, tag

_AFTER_SAVE = "dynamics/"  # of the scalars that the loop logs after the checkpoint of their step


class Logger:
    """Scalars to `metrics.jsonl` (a JSON object a line, `step` first), those with a `tag` also to
    TensorBoard, and images to TensorBoard.

    A resumed run drops the lines that it will write again. Only the first process writes. Raises
    TrainingError where the disk cannot be written.
    """

    def __init__(self, run: str | Path, start: int, active: bool = True):
        self._active = active
        if not active:
            return
        self._path = Path(run) / "metrics.jsonl"
        with self._naming_errors():
            if self._path.exists():
                self._drop_lines(start)
            self._file = self._path.open("a")
            self._events = Events(Path(run), start + 1)

    def _drop_lines(self, start: int) -> None:
        lines = _lines(self._path)
        if damaged := sum(_step(line) == math.inf for line in lines[:-1]):  # a kill can cut the last one short
            devices.say(f"warning: {self._path}: {damaged} lines are damaged, and dropped")
        kept = [line for line in lines if not _again(line, start)]
        write_atomically(self._path, "".join(line + "\n" for line in kept).encode())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if not self._active:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self._naming_errors():
            for name, value in values.items():
                if (shown := tag(name)) is not None:
                    self._events.add(step, summary=summary.scalar(shown, value))
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """uint8 [H,W,3] each."""
        if not self._active:
            return
        with self._naming_errors():
            for name, image in images.items():
                self._events.add(step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """The scalars are on the disk already; the last events are lost where it is full."""
        if self._active:
            for file in (self._file, self._events):
                with contextlib.suppress(OSError):
                    file.close()

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self._path.parent}: the log cannot be written ({error}); make room and start again to resume"
            ) from error


def scalars(run: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The log of a run, line by line: (batches seen, {name: number}). Damaged lines and values that
    are no number are left out. Nothing for a run without a log.

    Raises RunError where the file cannot be read.
    """
    path = run / "metrics.jsonl"
    for line in _lines(path) if path.exists() else ():
        if _step(line) < math.inf:
            row = json_text.parse(line)
            yield row["step"], {k: v for k, v in row.items() if k != "step" and json_text.problem(v, float) is None}


def logged(run: Path, until: int) -> Iterator[tuple[int, dict[str, float]]]:
    """The training metrics in the log of a run, up to a step: (batches seen, {name: mean}). Nothing
    for a run without a log.
    """
    for step, numbers in scalars(run):
        metrics = {k.removeprefix("train/"): v for k, v in numbers.items() if k.startswith("train/")}
        if metrics and step <= until:
            yield step, metrics


def _lines(path: Path) -> list[str]:
    """The lines of a log. Bytes that are no text spoil their line only.

    Raises RunError where the file cannot be read.
    """
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); restore it, or move it away") from error


def _again(line: str, start: int) -> bool:
    """Whether a run that resumes at step `start` writes a line again, or cannot read it."""
    step = _step(line)
    return step > start or (step == start and any(name.startswith(_AFTER_SAVE) for name in json_text.parse(line)))


def _step(line: str) -> float:
    """The step of a line; infinity for a damaged line, such as one that a kill cut short."""
    try:
        return json_text.parse(line, {"step": int})["step"]
    except ValueError:
        return math.inf
