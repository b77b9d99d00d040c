"""From a config to a finished run."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import ml_collections

from morphojax.data.json_text import flat
from morphojax.tasks import cohort
from morphojax.tasks.pretrain.build import build as build_pretrain
from morphojax.tasks.probe.build import build as build_probe
from morphojax.tasks.segment.build import build as build_segment
from morphojax.train import devices, loop, tensorboard
from morphojax.train.run import alone, create
from morphojax.train.task import Task, TrainingError

TASKS = {"pretrain": build_pretrain, "segment": build_segment, "probe": build_probe}
# What a finished run of each task is for.
NEXT = {
    "pretrain": "morphojax train --config=segment_sax --config.init_from={run}",
    "segment": "morphojax evaluate --run={run}",
    "probe": "morphojax probe --run={run}",
}
# Errors that a user can mend, printed as one line without a traceback. The package's own errors are
# ValueErrors.
EXPECTED = (ValueError, TrainingError)


def build(config: ml_collections.ConfigDict) -> tuple[Task, dict[str, Any]]:
    """The task that a config describes, and the files of its run directory. Raises one of
    EXPECTED.
    """
    if config.task not in TASKS:
        raise ValueError(f"config.task={config.task!r} is unknown: choose one of {', '.join(TASKS)}")
    if "dynamics_every" in config and config.dynamics_every < 0:
        raise ValueError(f"config.dynamics_every={config.dynamics_every}: give a number of steps, or 0 for never")
    for key in ("log_every", "save_every", "images_every", "keep_checkpoints"):
        if config[key] < 1:
            raise ValueError(f"config.{key}={config[key]}: give a number, at least 1")
    return TASKS[config.task](config, cohort.open_configured(config.data))


def run(config: ml_collections.ConfigDict) -> bool:
    """Trains the task of a config, in `config.workdir`. True when complete, False when a signal
    stopped it.

    Raises one of EXPECTED for an error in the config, the data or the run directory.
    """
    directory = Path(config.workdir)
    task, files = build(config)
    with alone(directory) if jax.process_index() == 0 else contextlib.nullcontext():
        if jax.process_index() == 0:
            create(directory, config.to_dict(), files)
            scores = [f"val/{task.best[0]}"] if task.validation_batches is not None else []
            tensorboard.write_hparams(directory, dict(flat(config.to_dict())), scores)
        devices.say(
            f"{config.task}: {task.steps} steps of {task.examples} examples on {jax.device_count()} "
            f"{jax.default_backend()} device(s), to {directory}"
        )
        complete = _fit(config, task, directory)
        if complete:
            devices.say(f"next: {NEXT[config.task].format(run=directory)}")
        return complete


def _fit(config: ml_collections.ConfigDict, task: Task, directory: Path) -> bool:
    return loop.fit(
        task,
        run=directory,
        mesh=devices.make_mesh(),
        log_every=config.log_every,
        eval_every=config.eval_every or task.steps,
        save_every=config.save_every,
        images_every=config.images_every,
        keep_checkpoints=config.keep_checkpoints,
    )
