"""The log of a run: TensorBoard events and metrics.jsonl."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from morphojax.data import json_text
from morphojax.data.store.records import write_atomically
from morphojax.train.run import RunError


class Logger:
    """Scalars to TensorBoard and to `metrics.jsonl` (a JSON object a line, `step` first), images to
    TensorBoard.

    A resumed run drops the lines after its checkpoint, which the killed run had already written.
    Only the first process writes.
    """

    def __init__(self, run: str | Path, start: int, active: bool = True):
        self._active = active
        if not active:
            return
        self._path = Path(run) / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in _lines(self._path) if _step(line) <= start]
            write_atomically(self._path, "".join(line + "\n" for line in kept).encode())
        self._file = self._path.open("a")
        self._writer = SummaryWriter(str(run), purge_step=start + 1, flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if not self._active:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """uint8 [H,W,3] each."""
        if not self._active:
            return
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            self._file.close()
            self._writer.close()


def logged(run: Path, until: int) -> Iterator[tuple[int, dict[str, float]]]:
    """The training metrics in the log of a run, up to a step: (batches seen, {name: mean}). Nothing
    for a run without a log.
    """
    path = run / "metrics.jsonl"
    for line in _lines(path) if path.exists() else ():
        if _step(line) <= until:
            row = json_text.parse(line)
            numbers = {k: v for k, v in row.items() if json_text.problem(v, float) is None}
            metrics = {k.removeprefix("train/"): v for k, v in numbers.items() if k.startswith("train/")}
            if metrics:
                yield row["step"], metrics


def _lines(path: Path) -> list[str]:
    """The lines of a log. Bytes that are no text spoil their line only.

    Raises RunError where the file cannot be read.
    """
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); restore it, or move it away") from error


def _step(line: str) -> float:
    """The step of a line; infinity for a damaged line, such as one that a kill cut short."""
    try:
        return json_text.parse(line, {"step": int})["step"]
    except ValueError:
        return math.inf
