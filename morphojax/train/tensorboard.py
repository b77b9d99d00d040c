"""What TensorBoard shows of a run. Its groups are in alphabetical order: dice, loss, objectives,
training, and last z_dynamics.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore

_FLUSH_SECONDS = 10.0
_HPARAMS = ".hparams"  # end of the event file's name
SPLITS = ("train", "val", "val_ema")
LAST = "z_dynamics"
# Of the training dynamics. The others, by depth or by column, are in metrics.jsonl:
# `morphojax dynamics` draws them.
DYNAMICS = ("rank_", "grad_norm/", "cka/pooled")


def tag(name: str) -> str | None:
    """The tag of a scalar in the log; None where TensorBoard does not show it.

    "val/dice/lv_cavity" -> "dice/val lv_cavity", "train/loss" -> "loss/train",
    "train/info_nce/alignment" -> "objective info_nce/alignment train".
    """
    split, _, rest = name.partition("/")
    if split == "dynamics":
        return f"{LAST}/{rest}" if rest.startswith(DYNAMICS) else None
    if split not in SPLITS:
        return name
    first, _, detail = rest.partition("/")
    if first == "grad_norm":
        return None if "/" in detail else f"{LAST}/gradient {detail}"
    if rest in ("learning_rate", "examples_per_second"):
        return f"training/{rest}"
    if first == "dice":
        return f"dice/{split} {detail}".strip()
    if first.startswith("loss"):
        return f"loss/{split} {first.removeprefix('loss').removeprefix('_')}".strip()
    return f"objective {first}/{detail} {split}" if detail else f"training/{first} {split}"


class Events:
    """TensorBoard's event file, written by this thread.

    tensorboardX's SummaryWriter writes from another one: a full disk ends that thread, and the run
    waits for it for ever.
    """

    def __init__(self, run: Path, purge_step: int):
        """Events of the files before, from `purge_step` on, are hidden."""
        self._writer = EventsWriter(str(run / "events"), f".{os.getpid()}.{purge_step}")
        self._flushed = time.monotonic()
        self.add(purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, **content: Any) -> None:
        self._writer.write_event(Event(step=step, wall_time=time.time(), **content))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def write_hparams(run: Path, config: Mapping[str, Any], scores: Sequence[str]) -> None:
    """Fills TensorBoard's table of hyperparameters, once per run: the flat config beside the last
    values of scores, by their names in the log.
    """
    if next(run.glob(f"*{_HPARAMS}"), None) is not None:
        return
    values = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in config.items()}
    writer = EventsWriter(str(run / "events"), _HPARAMS)
    for part in summary.hparams(values, {tag(name): 0 for name in scores}):
        writer.write_event(Event(summary=part, wall_time=time.time()))
    writer.close()
