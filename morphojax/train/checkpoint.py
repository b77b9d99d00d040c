"""Checkpoints of a run: the last ones and the best one, written whole or not at all. The only file
that knows orbax.
"""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from morphojax.data.errors import NamedError
from morphojax.train import devices, digests, portable
from morphojax.train.choices import WEIGHTS
from morphojax.train.state import TrainState

PyTree = Any
_LOWEST = float("-inf")


class CheckpointError(NamedError):
    """A checkpoint that is missing, damaged or of another model. The message names it and says what
    to do.
    """


def _is_not_raised(record: logging.LogRecord) -> bool:
    """False for tracebacks that orbax's threads log of errors which it then raises."""
    return not (record.exc_info or "Traceback" in str(record.msg)) or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_is_not_raised)


class _Always:
    """The loop decides when to save; orbax's own policies would second-guess it."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        return True


def _score(metrics: Any) -> float:
    return metrics["score"] if metrics else _LOWEST


class Checkpoints:
    """The checkpoints of one run directory, under `checkpoints/<step>`. The best is the one with
    the highest score.
    """

    def __init__(self, run: str | Path, keep: int = 2):
        """Damaged checkpoints are moved to `damaged/<step>` of the run, with a warning.

        keep: how many of the last checkpoints stay, besides the best one. Raises CheckpointError
            where the directory cannot be written.
        """
        self.directory = Path(run).resolve() / "checkpoints"
        policies: Any = ocp.training.preservation_policies
        try:
            _set_damaged_aside(self.directory)
            self._checkpointer = ocp.training.Checkpointer(
                str(self.directory),
                save_decision_policy=_Always(),
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise CheckpointError(
                f"{self.directory}: cannot be written ({error}); choose another config.workdir"
            ) from error

    @property
    def last(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def scores(self) -> dict[int, float]:
        """By step, of the checkpoints that were evaluated; higher is better."""
        return {c.step: _score(c.metrics) for c in self._checkpointer.checkpoints if c.metrics}

    def save(self, step: int, state: TrainState, iterator: Any, score: float | None) -> None:
        """Saves and waits for the disk: orbax's saves in the background leak file descriptors.

        Args:
            iterator: state of the input iterator, JSON-able: the next batch after this step is the
                one it would give.
            score: what the best checkpoint is chosen by (higher is better); None where this step
                was not evaluated.
        """
        try:
            if jax.process_count() > 1:
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
                _check_room(self.directory, size if jax.process_index() == 0 else 2**16)
            self._checkpointer.save_checkpointables(
                step,
                {"state": state},
                metrics=None if score is None else {"score": score},
                custom_metadata={"iterator": json.dumps(iterator)},
                overwrite=True,
            )
            if jax.process_index() == 0:
                digests.write(self.directory / str(step))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.directory}: could not be written ({error}); the checkpoints before it are whole: "
                "make room and start again to resume"
            ) from error

    def discard(self, step: int) -> None:
        """Removes the checkpoint of a step, if there is one."""
        if any(c.step == step for c in self._checkpointer.checkpoints):
            self._checkpointer.delete(step)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Any]:
        """The last checkpoint and its iterator state.

        Args:
            abstract: the state's shapes, dtypes and shardings (jax.ShapeDtypeStruct leaves).

        Raises CheckpointError, with the difference, where the checkpoint is not of this model.
        """
        step = self.last
        path = self.directory / str(step)
        _check_same(path, abstract)
        try:
            loaded = self._checkpointer.load_checkpointables(step, {"state": abstract})
            metadata: Any = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except Exception as error:  # orbax raises whatever its storage layer met: all mean the same to a user
            raise CheckpointError(
                f"{path}: damaged ({_first_line(error)}); remove this folder to go on from the one before"
            ) from error
        return loaded["state"], json.loads(metadata["iterator"])

    def close(self) -> None:
        self._checkpointer.close()


def _check_room(directory: Path, size: int) -> None:
    """Raises OSError where a file of `size` bytes does not fit: a full disk, or a quota.

    Among several processes, orbax meets an error of one of them at a barrier and waits there for 20
    minutes. Process 0 writes the state, because it is the same in all; the others write little.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


def _set_damaged_aside(directory: Path) -> None:
    """Moves checkpoints whose digests do not hold out of orbax's sight, so that the last whole one
    is the last.
    """
    if jax.process_index() == 0:
        for folder in sorted(p for p in directory.glob("*") if p.name.isdigit()):
            if (damage := digests.damage(folder)) is None:
                continue
            aside = directory.parent / "damaged" / folder.name
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            devices.say(f"warning: {folder}: damaged ({damage}); moved to {aside}, the checkpoint before it is used")
    devices.wait_for_all("damaged checkpoints")


def find(path: str | Path, which: str | int = "best") -> Path:
    """The checkpoint folder meant by a run directory (its best or last checkpoint, or that of a
    step) or by a checkpoint folder itself.
    """
    path = Path(path).resolve()
    if (path / "state").is_dir() or (path / portable.NAME).is_file():
        return path
    if isinstance(which, int):
        return path / "checkpoints" / str(which)
    # Scores are read only where they are needed, as a damaged one is an error.
    scored = [
        (_saved_score(path / "checkpoints" / str(step)) if which == "best" else _LOWEST, step) for step in kept(path)
    ]
    return path / "checkpoints" / str(max(scored)[1])


def kept(run: str | Path) -> list[int]:
    """The steps of the whole checkpoints of a run directory, sorted. Warns of each damaged one.

    Raises CheckpointError where there is none.
    """
    run = Path(run).resolve()
    directory = run / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(
            f"{run}: no run and no checkpoint here; give a run directory or one of the folders in its checkpoints/"
        )
    # Read only: another process may be training in this directory, so nothing is cleaned up.
    whole = []
    for step in sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit()):
        folder = directory / str(step)
        if (damage := digests.damage(folder)) is None:
            whole.append(step)
        else:
            devices.say(f"warning: {folder}: damaged ({damage}); the other checkpoints are used")
    if not whole:
        raise CheckpointError(f"{directory}: holds no whole checkpoint; has the run saved yet?")
    return whole


def _saved_score(folder: Path) -> float:
    """The score that a checkpoint was saved with, from orbax's file: its own reader fails where
    any checkpoint of the run is damaged.
    """
    try:
        return _score(json.loads((folder / "metrics" / "metrics").read_text()))
    except FileNotFoundError:
        return _LOWEST
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: damaged (its score cannot be read: {error}); remove this folder") from error


def load_variables(path: str | Path, which: str | int = "best", weights: str = "model") -> dict[str, PyTree]:
    """The variables {"params": ..., "batch_stats": ...} as NumPy arrays, from a run directory or a
    checkpoint folder.

    Args:
        which: `best` (by validation; the last where none was evaluated), `last` or a step, for a
            run directory.
        weights: `model`, as the optimizer left them, or `ema`, their moving average
            (config.ema.decay).

    Raises:
        CheckpointError: no checkpoint, a damaged one, one of an older version, or EMA weights that
            the run does not keep.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown: choose {' or '.join(WEIGHTS)}")
    folder = find(path, which)
    if (damage := digests.damage(folder)) is not None:
        raise CheckpointError(f"{folder}: damaged ({damage}); use another checkpoint")
    if (folder / portable.NAME).is_file():
        if weights != "model":
            raise CheckpointError(f"{folder}: holds one set of weights; use weights=model")
        return portable.read(folder)
    # Placed on one device: the run may have had other devices than this machine.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        stored = ocp.checkpointables_metadata(str(folder)).metadata["state"]
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), stored)
        state = ocp.load_checkpointables(str(folder), {"state": abstract})["state"]
    except Exception as error:  # see Checkpoints.restore
        raise CheckpointError(f"{folder}: damaged ({_first_line(error)}); use another checkpoint") from error
    if state is None or not {"params", "collections", "ema"} <= set(state):
        raise CheckpointError(f"{folder}: damaged, or written by an older version of morphojax; train the run again")
    if weights == "ema" and not state["ema"]:
        raise CheckpointError(
            f"{folder}: holds no EMA weights; train with config.ema.decay above 0, or use weights=model"
        )
    variables = state["ema"] if weights == "ema" else {"params": state["params"], **(state["collections"] or {})}
    return jax.tree.map(jax.device_get, dict(variables))


def _check_same(path: Path, abstract: TrainState) -> None:
    """Raises CheckpointError, naming the differences, where the stored tree is not the model's.

    Orbax itself would load whatever it finds.
    """
    stored, error = None, "its metadata cannot be read"
    try:
        stored = ocp.checkpointables_metadata(str(path)).metadata["state"]
    except Exception as met:  # see Checkpoints.restore
        error = _first_line(met)
    if stored is None:
        raise CheckpointError(f"{path}: damaged ({error}); remove this folder to go on from the one before")
    if not {"collections", "ema"} <= set(stored):
        raise CheckpointError(f"{path}: written by an older version of morphojax; use another config.workdir")
    have, want = _shapes(stored), _shapes(abstract)
    problems = [f"not in the checkpoint: {name}" for name in sorted(want.keys() - have.keys())]
    problems += [f"not in the model: {name}" for name in sorted(have.keys() - want.keys())]
    problems += [
        f"{n}: {have[n]} in the checkpoint, {want[n]} in the model"
        for n in sorted(have.keys() & want.keys())
        if have[n] != want[n]
    ]
    if problems:
        raise CheckpointError(
            f"{path}: of another architecture than the config's; use another config.workdir or the run's own config. "
            + f"{len(problems)} differences, first: "
            + "; ".join(problems[:5])
        )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    def name(entry: Any) -> str:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                return str(getattr(entry, attribute))
        return str(entry)

    return {"/".join(map(name, path)): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
