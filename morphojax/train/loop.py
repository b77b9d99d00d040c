"""The only training loop.

Its order is a contract: evaluate, save, next batch, diagnose, step, log (one step late). The device never waits for the host: metrics
are fetched for many steps at once, after the next step has been dispatched.
"""

import collections
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from morphojax.train import devices
from morphojax.train.checkpoint import Checkpoints
from morphojax.train.logger import Logger
from morphojax.train.task import Batch, Task


class TrainingError(RuntimeError):
    """Training that cannot go on. The message names the step and what to do."""


def fit(
    task: Task, *, run: Path, mesh: Mesh, log_every: int, eval_every: int, save_every: int, images_every: int
) -> bool:
    """Trains until the last step, taking up where a run in the same directory stopped.

    Args:
        run: the run directory.
        log_every, eval_every, save_every, images_every: in steps (batches); the last step always evaluates, draws and saves
            (and diagnoses, in a task that does).

    Returns:
        True when the run is complete, False when SIGTERM (or Ctrl-C) stopped it after a save.

    Raises:
        TrainingError: the loss is not finite; the last good checkpoint is kept.
        CheckpointError: a checkpoint cannot be read or written.
    """
    checkpoints = Checkpoints(run)
    replicated = devices.replicated(mesh)
    init = jax.jit(task.init, out_shardings=replicated)
    constants = jax.device_put(task.constants, replicated)
    if task.remember is not None:
        constants |= {"start": jax.jit(task.remember, out_shardings=replicated)(init(task.pretrained), constants)}
    start = checkpoints.last
    if start is None:
        state, start = init(task.pretrained), 0
        resumed = False
    else:
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated),
            jax.eval_shape(task.init, task.pretrained),
        )
        state, iterator = checkpoints.restore(abstract)
        task.train_batches.set_state(iterator)
        resumed = True
        devices.say(f"resumed at step {start} of {task.steps}")

    phases = [(first, jax.jit(step, donate_argnums=0, out_shardings=replicated)) for first, step in task.phases]
    eval_step = jax.jit(task.eval_step, out_shardings=replicated)
    pictures = jax.jit(task.pictures, out_shardings=replicated)
    diagnose = jax.jit(task.diagnose, out_shardings=replicated) if task.diagnose else None
    logger = Logger(run, start, active=jax.process_index() == 0)
    pending = _Pending(logger, task, start)

    def evaluate(step: int) -> float:
        assert task.eval_batches is not None
        outputs = [jax.device_get(eval_step(state, constants, devices.put_batch(b, mesh))) for b in task.eval_batches()]
        scalars = task.summarise(outputs)
        logger.scalars(step, {f"val/{name}": value for name, value in scalars.items()})
        name, higher = task.best
        return scalars[name] if higher else -scalars[name]

    def draw(step: int, batch: Batch) -> None:
        if task.pictures_of_validation and task.eval_batches is not None:
            batch = next(iter(task.eval_batches()))
        logger.images(
            step, task.draw(jax.device_get(pictures(state, constants, devices.put_batch(batch, mesh))), batch)
        )

    def look(step: int, batch: Batch) -> None:
        if diagnose is not None:
            found = jax.device_get(diagnose(state, constants, devices.put_batch(batch, mesh)))
            logger.scalars(step, {f"dynamics/{name}": float(value) for name, value in found.items()})

    batch: Batch | None = None
    try:
        with _stop_signals() as stop, tqdm(total=task.steps, initial=start, disable=None, unit="step") as bar:
            for step in range(start, task.steps + 1):
                finished = step == task.steps
                stopping = _agree(stop, step, log_every) and not finished
                fresh = not (resumed and step == start)  # a checkpoint's own step was evaluated before it was saved
                score = None
                if fresh and step and task.eval_batches is not None and (finished or step % eval_every == 0):
                    pending.flush(step)
                    score = evaluate(step)
                if fresh and (finished or stopping or score is not None or (step and step % save_every == 0)):
                    pending.flush(step)
                    checkpoints.save(step, state, task.train_batches.get_state(), score)
                if finished and batch is not None:
                    draw(step, batch)
                    look(step, batch)
                if finished or stopping:
                    break
                batch = next(task.train_batches)
                if step % images_every == 0:
                    draw(step, batch)
                if task.diagnose_every and step % task.diagnose_every == 0:
                    look(step, batch)
                train_step = next(function for first, function in reversed(phases) if step >= first)
                state, metrics = train_step(state, constants, devices.put_batch(batch, mesh))
                if (step + 1) % log_every == 0:
                    pending.flush(step)  # the steps before this one, which the device has just left behind
                pending.add(step, metrics, batch)
                bar.update()
        checkpoints.wait()
    finally:
        with contextlib.suppress(Exception):  # an error under way matters more than what closing meets
            checkpoints.close()
        logger.close()
        if hasattr(task.train_batches, "close"):
            task.train_batches.close()
    if stopping:
        devices.say(f"stopped by a signal at step {step}; run the same command to go on")
    return not stopping


class _Pending:
    """Metrics still on the device, with enough of each batch to name it if its loss was not finite."""

    def __init__(self, logger: Logger, task: Task, start: int):
        self._logger, self._task = logger, task
        self._queue: collections.deque[tuple[int, dict[str, jax.Array], np.ndarray]] = collections.deque()
        self._clock, self._counted = time.perf_counter(), start

    def add(self, step: int, metrics: dict[str, jax.Array], batch: Any) -> None:
        self._queue.append((step, metrics, np.asarray(batch["subject"])))

    def flush(self, before: int) -> None:
        """Fetches, checks and logs (as a mean) the metrics of all steps before this one. A step's number counts batches seen."""
        taken = [self._queue.popleft() for _ in range(len(self._queue)) if self._queue[0][0] < before]
        if not taken:
            return
        values = jax.device_get([metrics for _, metrics, _ in taken])
        for (step, _, subjects), metrics in zip(taken, values, strict=True):
            if not np.isfinite(metrics["loss"]):
                raise TrainingError(
                    f"the loss became {metrics['loss']} at step {step}, in the batch of subjects (by index in the dataset) "
                    f"{sorted(set(subjects.tolist()))}. The last good checkpoint is kept. Look at these subjects, "
                    "or lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or use float32"
                )
        last = taken[-1][0] + 1
        now = time.perf_counter()
        scalars = {f"train/{name}": float(np.mean([m[name] for m in values])) for name in values[0]}
        scalars["train/learning_rate"] = self._task.learning_rate(last - 1)
        scalars["train/examples_per_second"] = (last - self._counted) * self._task.examples / (now - self._clock)
        self._clock, self._counted = now, last
        self._logger.scalars(last, scalars)


@contextlib.contextmanager
def _stop_signals() -> Iterator[dict[str, bool]]:
    """SIGTERM (a scheduler taking the machine back) and Ctrl-C ask for a save and a clean exit."""
    asked = {"stop": False}

    def ask(signum: int, frame: Any) -> None:
        asked["stop"] = True

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _agree(asked: dict[str, bool], step: int, every: int) -> bool:
    """Whether to stop. All processes must stop at the same step, so that they ask one another, now and then."""
    if jax.process_count() == 1:
        return asked["stop"]
    if step % every:
        return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(asked["stop"])).any())
