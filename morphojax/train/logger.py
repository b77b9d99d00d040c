"""The log of a run: TensorBoard events and metrics.jsonl."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from morphojax.data.store.records import write_atomically


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
            kept = [line for line in self._path.read_text().splitlines() if _step(line) <= start]
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
        """A full disk is no error here: every line is on it, or was an error before."""
        if self._active:
            self._file.close()
            with contextlib.suppress(OSError):
                self._writer.close()


def logged(run: Path, until: int) -> Iterator[tuple[int, dict[str, float]]]:
    """The training metrics in the log of a run, up to a step: (batches seen, {name: mean}). Nothing
    for a run without a log.
    """
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        if _step(line) <= until:
            row = json.loads(line)
            metrics = {k.removeprefix("train/"): v for k, v in row.items() if k.startswith("train/") and v is not None}
            if metrics:
                yield row["step"], metrics


def _step(line: str) -> float:
    """The step of a line; infinity for a line that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return math.inf
