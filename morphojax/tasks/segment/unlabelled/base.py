"""What an unlabelled objective declares, and the sum of the objectives of a run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from morphojax.tasks.segment.unlabelled.batch import BatchSpec, UnlabelledBatch
from morphojax.tasks.segment.unlabelled.collapse import CollapseMonitor
from morphojax.tasks.segment.unlabelled.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class UnlabelledObjective:
    """One objective on unlabelled images.

    loss:         UnlabelledBatch -> (loss, metrics), without the weight.
    whole_stacks: the loss needs all slices of a stack at once (a volume). Otherwise it takes single
                  slices of any plane.
    volumes:      the loss needs the volumes of the table, hence whole stacks; only subjects that
                  have some take part.
    ema:          the teacher must be EMA weights (config.ema.decay above 0).
    reads_pseudo_labels: the loss reads `UnlabelledBatch.pseudo_labels`.
    schedule:     the weight over the run, set from the config.
    """

    loss: Callable[[UnlabelledBatch], tuple[jax.Array, dict[str, jax.Array]]]
    whole_stacks: bool = False
    volumes: bool = False
    ema: bool = False
    reads_pseudo_labels: bool = False
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


@dataclasses.dataclass(frozen=True)
class UnlabelledSpec:
    """The unlabelled objectives of a run. steps: of the run."""

    objectives: Mapping[str, UnlabelledObjective]
    batch: BatchSpec
    steps: int

    @property
    def first_steps(self) -> tuple[int, ...]:
        """The steps at which an objective begins to act, in order."""
        return tuple(sorted({o.schedule.first_step(self.steps) for o in self.objectives.values()}))

    def at(self, step: int) -> Self | None:
        """With the objectives that have begun to act; None before the first."""
        acting = {n: o for n, o in self.objectives.items() if o.schedule.first_step(self.steps) <= step}
        return dataclasses.replace(self, objectives=acting) if acting else None

    def with_seed(self, seed: Any) -> Self:
        return dataclasses.replace(self, batch=dataclasses.replace(self.batch, seed=seed))

    @property
    def reads_pseudo_labels(self) -> bool:
        return any(objective.reads_pseudo_labels for objective in self.objectives.values())

    def monitor(self) -> CollapseMonitor | None:
        """A new monitor of the teacher; None where no objective reads pseudo-labels."""
        steps = self.batch.teacher.collapse_steps
        readers = [o for o in self.objectives.values() if o.reads_pseudo_labels]
        if not steps or not readers:
            return None
        return CollapseMonitor(self.batch.structures, steps, min(o.schedule.first_step(self.steps) for o in readers))


def loss(batch: UnlabelledBatch, spec: UnlabelledSpec, step: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """The weighted sum of all objectives, and their metrics as
    `unlabelled/<objective>/<metric>`.
    """
    total, metrics = jnp.float32(0.0), {}
    for name, objective in spec.objectives.items():
        value, own = objective.loss(batch)
        fraction = objective.schedule.fraction(step, spec.steps)
        total += objective.schedule.weight * fraction * value
        logged = {"loss": value, "ramp": fraction, **own}
        metrics |= {f"unlabelled/{name}/{key}": v for key, v in logged.items()}
    if spec.reads_pseudo_labels:
        fractions = {f"labelled_fraction/{name}": value for name, value in batch.labelled_fractions.items()}
        metrics |= {f"unlabelled/teacher/{key}": v for key, v in (batch.pseudo_labels.metrics | fractions).items()}
    return total, metrics
