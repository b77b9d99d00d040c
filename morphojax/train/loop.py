"""The only training loop.

Its order is a contract: evaluate, save, next batch, draw, diagnose, step, log (one step late). At
the last step it draws and diagnoses before it saves: a run with that checkpoint is complete. The
device never waits for the host: metrics are fetched for many steps at once, after the next step has
been dispatched.
"""

import collections
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from morphojax.train import devices
from morphojax.train.checkpoint import Checkpoints
from morphojax.train.logger import Logger, logged
from morphojax.train.reporting import TrainingBar, describe_end, describe_stop
from morphojax.train.state import TrainState
from morphojax.train.task import Batch, Task, TrainingError


class NotFiniteError(TrainingError):
    """A loss, gradient, weight or score that is not finite: of the weights at a step."""

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


def fit(
    task: Task,
    *,
    run: Path,
    mesh: Mesh,
    log_every: int,
    eval_every: int,
    save_every: int,
    images_every: int,
    keep_checkpoints: int = 2,
) -> bool:
    """Trains until the last step. A run that stopped in the same directory is resumed; a finished
    one returns at once.

    Args:
        run: the run directory.
        log_every, eval_every, save_every, images_every: in steps (batches); the last step always
            evaluates, draws and saves (and diagnoses, in a task that does).
        keep_checkpoints: how many of the last checkpoints stay, besides the best one.

    Returns:
        True when the run is complete, False when SIGTERM (or Ctrl-C) stopped it after a save.

    Raises:
        TrainingError: the loss, a gradient, a weight or the validation score is not finite, or the
            task's monitor stops the run. No checkpoint of such weights is kept.
        CheckpointError: a checkpoint cannot be read or written.
    """
    checkpoints = Checkpoints(run, keep_checkpoints)
    if checkpoints.last == task.steps:
        checkpoints.close()
        devices.say(f"finished before: {run} holds the checkpoint of the last step, {task.steps}")
        return True
    state, constants, start = _begin(task, checkpoints, mesh)
    logger = Logger(run, start, active=jax.process_index() == 0)
    _replay(task, run, start)
    session = _Session(task, logger, mesh, constants)
    pending = _Pending(logger, task, start)
    resumed = checkpoints.last is not None
    batch: Batch | None = None
    try:
        with _stop_signals() as stop, TrainingBar(task, start) as bar:
            for step in range(start, task.steps + 1):
                finished = step == task.steps
                stopping = _agree(stop, step, log_every) and not finished
                new = not (resumed and step == start)  # a checkpoint's own step was evaluated before it was saved
                score = None
                if new and step and task.validation_batches is not None and (finished or step % eval_every == 0):
                    pending.flush(step)
                    score = session.evaluate(step, state)
                    bar.show_score(score)
                if new and (finished or stopping or score is not None or (step and step % save_every == 0)):
                    pending.flush(step)
                    session.check_finite(step, state)
                    if finished and batch is not None:  # before the save, which makes the run complete
                        session.draw(step, state, batch)
                        session.diagnose(step, state, batch)
                    checkpoints.save(step, state, task.train_batches.get_state(), score)
                if finished or stopping:
                    break
                batch = next(task.train_batches)
                if step % images_every == 0:
                    session.draw(step, state, batch)
                if task.diagnose_every and step % task.diagnose_every == 0:
                    session.diagnose(step, state, batch)
                state, metrics = session.train(step, state, batch)
                if (step + 1) % log_every == 0:
                    bar.show_loss(pending.flush(step))  # of the steps before, which the device has finished
                pending.add(step, metrics, batch)
                bar.update()
    except NotFiniteError as error:
        raise _discard(checkpoints, error) from None
    finally:
        with contextlib.suppress(Exception):  # an error under way matters more than an error while closing
            checkpoints.close()
        logger.close()
        if hasattr(task.train_batches, "close"):
            task.train_batches.close()
    devices.say(describe_stop(step) if stopping else describe_end(task, run, checkpoints.scores, bar.seconds))
    return not stopping


def _discard(checkpoints: Checkpoints, error: NotFiniteError) -> TrainingError:
    """Removes the checkpoint of the weights that gave the error. Returns what to tell the user."""
    checkpoints.discard(error.step)
    kept = checkpoints.last
    return TrainingError(
        f"{error}. {'No checkpoint was saved before' if kept is None else f'The checkpoint of step {kept} is kept'}. "
        "Look at these subjects, or lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or use float32"
    )


def _replay(task: Task, run: Path, start: int) -> None:
    """Shows the task's monitor what a resumed run has logged before."""
    if task.monitor is not None:
        for step, metrics in logged(run, start):
            task.monitor(step - 1, metrics)


def _begin(task: Task, checkpoints: Checkpoints, mesh: Mesh) -> tuple[TrainState, Any, int]:
    """The state and the constants on the devices, and the step to start from: 0, or that of the
    last checkpoint.
    """
    replicated = devices.replicated(mesh)
    init = jax.jit(task.init, out_shardings=replicated)
    constants = jax.device_put(task.constants, replicated)
    if task.reference is not None:
        constants |= {"start": jax.jit(task.reference, out_shardings=replicated)(init(task.pretrained), constants)}
    step = checkpoints.last
    if step is None:
        return init(task.pretrained), constants, 0
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated),
        jax.eval_shape(task.init, task.pretrained),
    )
    state, iterator = checkpoints.restore(abstract)
    task.train_batches.set_state(iterator)
    devices.say(f"resumed at step {step} of {task.steps}")
    return state, constants, step


class _Session:
    """The compiled functions of a task, and what they need besides state and batch."""

    def __init__(self, task: Task, logger: Logger, mesh: Mesh, constants: Any):
        self._task, self._logger, self._mesh, self._constants = task, logger, mesh, constants
        out = devices.replicated(mesh)
        self._stages = [(first, jax.jit(f, donate_argnums=0, out_shardings=out)) for first, f in task.stages]
        self._evaluate = jax.jit(task.evaluate, out_shardings=out)
        self._pictures = jax.jit(task.pictures, out_shardings=out)
        self._diagnose = jax.jit(task.diagnose, out_shardings=out) if task.diagnose else None
        self._finite = jax.jit(lambda state: jax.tree.map(lambda a: jnp.isfinite(a).all(), state), out_shardings=out)

    def train(self, step: int, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        train_step = next(function for first, function in reversed(self._stages) if step >= first)
        return self._call(train_step, state, batch)

    def evaluate(self, step: int, state: TrainState) -> float:
        """Scores the validation set, of the EMA weights too where they are kept. Returns the score:
        higher is better.

        The best checkpoint is chosen by the model's own weights; the EMA weights are logged beside
        them.
        """
        scalars = self._validate(state)
        self._logger.scalars(step, {f"val/{name}": value for name, value in scalars.items()})
        if state.ema:
            averaged = self._validate(state.with_ema_weights())
            self._logger.scalars(step, {f"val_ema/{name}": value for name, value in averaged.items()})
        name, higher = self._task.best
        if not np.isfinite(scalars[name]):
            raise NotFiniteError(step, f"the validation gave {name} = {scalars[name]} at step {step}")
        return scalars[name] if higher else -scalars[name]

    def check_finite(self, step: int, state: TrainState) -> None:
        """Raises NotFiniteError, naming the first arrays, where the state holds NaN or infinity."""
        finite = jax.device_get(self._finite(state))
        if bad := [jax.tree_util.keystr(path) for path, ok in jax.tree_util.tree_leaves_with_path(finite) if not ok]:
            raise NotFiniteError(
                step,
                f"{len(bad)} arrays of the state are not finite after step {step - 1}, first: {', '.join(bad[:3])}",
            )

    def draw(self, step: int, state: TrainState, batch: Batch) -> None:
        if self._task.draw_validation and self._task.validation_batches is not None:
            batch = next(iter(self._task.validation_batches()))
        pictures = jax.device_get(self._call(self._pictures, state, batch))
        self._logger.images(step, self._task.draw(pictures, batch))

    def diagnose(self, step: int, state: TrainState, batch: Batch) -> None:
        if self._diagnose is not None:
            scalars = jax.device_get(self._call(self._diagnose, state, batch))
            self._logger.scalars(step, {f"dynamics/{name}": float(value) for name, value in scalars.items()})

    def _validate(self, state: TrainState) -> dict[str, float]:
        assert self._task.validation_batches is not None
        outputs = [jax.device_get(self._call(self._evaluate, state, b)) for b in self._task.validation_batches()]
        return self._task.summarise(outputs)

    def _call(self, function: Callable[..., Any], state: TrainState, batch: Batch) -> Any:
        return function(state, self._constants, devices.put_batch(batch, self._mesh))


class _Pending:
    """Metrics that are still on the device, with the subjects of each batch, to name them if its
    loss is not finite.
    """

    def __init__(self, logger: Logger, task: Task, start: int):
        self._logger, self._task = logger, task
        self._queue: collections.deque[tuple[int, dict[str, jax.Array], np.ndarray]] = collections.deque()
        self._clock, self._counted = time.perf_counter(), start

    def add(self, step: int, metrics: dict[str, jax.Array], batch: Any) -> None:
        self._queue.append((step, metrics, np.asarray(batch["subject"])))

    def flush(self, before: int) -> float | None:
        """Fetches, checks and logs (as a mean) the metrics of all steps before `before`. Returns
        their mean loss; None where there are none.
        """
        steps = [self._queue.popleft() for _ in range(len(self._queue)) if self._queue[0][0] < before]
        if not steps:
            return None
        values = jax.device_get([metrics for _, metrics, _ in steps])
        for (step, _, subjects), metrics in zip(steps, values, strict=True):
            for name in ("loss", *(n for n in metrics if n.startswith("grad_norm/"))):
                if not np.isfinite(metrics[name]):
                    raise NotFiniteError(
                        step,
                        f"{name} became {metrics[name]} at step {step}, in the batch of subjects (by index in the "
                        f"dataset) {sorted(set(subjects.tolist()))}",
                    )
            if self._task.monitor is not None:
                self._task.monitor(step, metrics)
        last = steps[-1][0] + 1  # batches seen
        now = time.perf_counter()
        scalars = {f"train/{name}": float(np.mean([m[name] for m in values])) for name in values[0]}
        scalars["train/learning_rate"] = self._task.learning_rate(last - 1)
        scalars["train/examples_per_second"] = (last - self._counted) * self._task.examples / (now - self._clock)
        self._clock, self._counted = now, last
        self._logger.scalars(last, scalars)
        return scalars["train/loss"]


@contextlib.contextmanager
def _stop_signals() -> Iterator[dict[str, bool]]:
    """{"stop": True} once SIGTERM (from a scheduler) or Ctrl-C asks for a save and a clean exit."""
    request = {"stop": False}

    def on_signal(signum: int, frame: Any) -> None:
        request["stop"] = True

    handlers = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)


def _agree(request: dict[str, bool], step: int, every: int) -> bool:
    """Whether to stop. All processes must stop at the same step, so they exchange their requests
    every `every` steps.
    """
    if jax.process_count() == 1:
        return request["stop"]
    if step % every:
        return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(request["stop"])).any())
