"""What a training shows of itself: its bar, and the line at its end."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax

from morphojax import interrupts, progress
from morphojax.train import devices
from morphojax.train.task import Task

STOPPING = "stopping after this step; Ctrl-C again stops at once, and keeps the last checkpoint"


class TrainingBar:
    """The progress of a training, with its last loss and validation score. The first step takes
    much longer than the others: it is announced, and its time printed. Before its end Ctrl-C loses
    nothing, and ends the process; after it the loop stops with a checkpoint.
    """

    def __init__(self, task: Task, start: int):
        self._metric, self._higher = task.best
        self._bar = progress.bar(
            desc="train", unit="step", total=task.steps, initial=start, show=jax.process_index() == 0
        )
        self._shown: dict[str, str] = {}
        self._compiled = start == task.steps
        self._stopping = contextlib.ExitStack()
        self._clock = time.monotonic()

    def __enter__(self) -> Self:
        if not self._compiled:
            devices.say("compiling the first step: up to a minute on a CPU ...")
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopping.close()
        self._bar.close()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._clock

    def update(self) -> None:
        if not self._compiled:
            devices.say(f"compiled in {self.seconds:.0f} s")
            self._compiled = True
            self._stopping.enter_context(interrupts.finishes(STOPPING))
            self._bar.unpause()  # the time left is that of the other steps
        self._bar.update()

    def show_loss(self, loss: float | None) -> None:
        if loss is not None:
            self._show("loss", loss)

    def show_score(self, score: float) -> None:
        self._show(f"val {self._metric}", score if self._higher else -score)

    def _show(self, name: str, value: float) -> None:
        self._shown[name] = f"{value:.3f}"
        self._bar.set_postfix_str(", ".join(f"{k} {v}" for k, v in self._shown.items()), refresh=False)


def describe_end(task: Task, run: Path, scores: Mapping[int, float], seconds: float) -> str:
    """What a finished run says: its time, its scores, and where its checkpoints are.

    scores: by step, higher is better (`Checkpoints.scores`).
    """
    minutes, rest = divmod(round(seconds), 60)
    text = f"complete in {minutes} min {rest} s"
    if scores:
        name, higher = task.best
        sign = 1 if higher else -1
        best = max(scores, key=lambda step: (scores[step], step))
        text += f"; validation {name}: best {sign * scores[best]:.3f} at step {best}"
        text += f", last {sign * scores[task.steps]:.3f}" if task.steps in scores else ""
    return f"{text}; checkpoints in {run / 'checkpoints'}"


def describe_stop(step: int) -> str:
    return f"stopped by a signal at step {step}; run the same command to go on"
