"""The seed of a run is an argument of its train step, not a part of the compiled program."""

from pathlib import Path

import jax
import pytest

from morphojax.tasks import experiment
from morphojax.train.task import Batch, Task
from tests.tasks.tiny import config

SELF_TRAINING = {
    "unlabelled.batch_size": 2,
    "unlabelled.objectives.volume_consistency.weight": 0.0,
    "unlabelled.objectives.entropy.weight": 0.0,
    "unlabelled.objectives.strong_views.weight": 1.0,
    "unlabelled.objectives.strong_views.start": 0.0,
    "data.fraction": 0.5,
}
ARMS = {"segment_sax": SELF_TRAINING, "pretrain_sax": {}, "probe": {}}


def build(name: str, data: Path, seed: int) -> tuple[Task, Batch]:
    task, _ = experiment.build(config(name, data, Path("unused"), seed=seed, **ARMS[name]))
    batch = next(task.train_batches)
    task.train_batches.close()
    return task, batch


@pytest.mark.parametrize("name", ARMS)
def test_runs_of_different_seeds_have_equal_programs(name: str, acdc: Path) -> None:
    programs = []
    for seed in (0, 1):
        task, batch = build(name, acdc, seed)
        state = jax.eval_shape(task.init, task.pretrained)
        programs.append(jax.jit(task.stages[-1][1]).lower(state, task.constants, batch).as_text())
    assert programs[0] == programs[1]


def test_the_seed_moves_the_draws(acdc: Path) -> None:
    task, batch = build("probe", acdc, 0)
    pictures = jax.jit(task.pictures)
    state = jax.jit(task.init)(task.pretrained)
    first, again, other = (pictures(state, task.constants | {"seed": seed}, batch) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
