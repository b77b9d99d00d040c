"""A table of a config's model: shapes, parameters, and the operations of a step. Nothing is
trained, written or compiled.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from morphojax.models.trace import output_shapes
from morphojax.tasks import experiment
from morphojax.train.task import Task

DEPTH = 2  # of the modules shown: encoder/stage1_block1


def describe(config: ml_collections.ConfigDict) -> str:
    """The table of the model that `experiment.run` would train. Raises one of experiment.EXPECTED.

    Shapes are those of an initialisation with two examples. Floating-point operations are XLA's
    count for the program as written (a multiply-add is two; the body of a loop counts once), per
    example of a validation pass and of a training step, with augmentation and loss. They need one
    batch, which is read from the dataset.
    """
    task = experiment.build(config)[0]
    states = []
    shapes = output_shapes(lambda: states.append(jax.eval_shape(task.init, task.pretrained)))
    (state,) = states
    return f"{table(state.params, shapes)}\n\n{costs(task, state)}"


def table(params: Any, shapes: dict[tuple[str, ...], str]) -> str:
    """A line for every module to DEPTH: output shape, parameters, fraction of all parameters."""
    counts: Counter[tuple[str, ...]] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = tuple(str(key.key) for key in path)
        modules = max(len(names) - 1, 1)  # an array without a module is a line of its own
        for depth in range(1, min(DEPTH, modules) + 1):
            counts[names[:depth]] += leaf.size
    total = sum(count for path, count in counts.items() if len(path) == 1)
    rows = [("module", "output", "parameters", "fraction")]
    for path, count in counts.items():
        name = "  " * (len(path) - 1) + path[-1]
        # A probe calls the encoder alone: it has no parent there.
        output = shapes.get(path) or shapes.get(path[1:] if path[0] == "encoder" else path, "")
        rows.append((name, output, f"{count:,}", f"{count / total:.1%}"))
    rows.append(("all", "", f"{total:,}", "100.0%"))
    wide = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}".rstrip() for a, b, c, d in rows)


def costs(task: Task, state: Any) -> str:
    """Floating-point operations per example."""
    batch = next(task.train_batches)
    # The last stage: an earlier one may train fewer modules.
    train, forward = task.stages[-1][1], task.evaluate
    lines = [
        f"{name}: {_flops(step, state, task.constants, batch) / task.examples / 1e9:.4g} GFLOP per example"
        for name, step in (("forward pass", forward), ("training step", train))
    ]
    return "\n".join(lines)


def _flops(step: Callable[..., Any], *arguments: Any) -> float:
    """NaN where this kind of device does not count."""
    counted = jax.jit(step).lower(*arguments).cost_analysis() or {}
    return float(counted.get("flops", float("nan")))
