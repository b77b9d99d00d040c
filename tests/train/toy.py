"""A task small enough to follow by hand: a scalar weight is fitted to the mean of a batch, with
noise from the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from morphojax.train import rng
from morphojax.train.ema import Decay
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step
from morphojax.train.task import Task


class Batches:
    """Endless batches that depend on their number alone. A batch listed in `poison` holds a NaN."""

    def __init__(self, poison: tuple[int, ...] = ()):
        self.next, self.poison, self.taken = 0, poison, []

    def __next__(self) -> dict[str, np.ndarray]:
        self.taken.append(self.next)
        x = np.random.default_rng(self.next).normal(size=4).astype(np.float32)
        if self.next in self.poison:
            x[2] = np.nan
        batch = {"x": x, "subject": np.arange(4, dtype=np.int32) + 10 * self.next}
        self.next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        return {"next": self.next}

    def set_state(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def task(
    steps: int,
    batches: Batches,
    events: list[Any] | None = None,
    learning_rate: float = 0.1,
    ema_decay: Decay | None = None,
) -> Task:
    optimizer = optax.adam(learning_rate)
    events = [] if events is None else events

    def loss(params, state, constants, batch):
        noise = jax.random.normal(rng.key(0, "noise", state.step))
        value = jnp.mean((params["tower"]["w"] - batch["x"] - 0.1 * noise) ** 2)
        return value, ({}, {"batch_stats": {"count": state.collections["batch_stats"]["count"] + 1}})

    def summarise(outputs):
        events.append("evaluate")
        return {"error": float(np.mean([o["error"] for o in outputs]))}

    return Task(
        init=lambda pretrained: TrainState.create(
            {"params": {"tower": {"w": jnp.float32(3.0)}}, "batch_stats": {"count": jnp.int32(0)}},
            optimizer,
            keep_ema=ema_decay is not None,
        ),
        pretrained={},
        steps=steps,
        stages=((0, make_train_step(loss, optimizer, ema_decay=ema_decay)),),
        evaluate=lambda state, constants, batch: {"error": jnp.abs(state.params["tower"]["w"] - 0.5)},
        summarise=summarise,
        constants={},
        train_batches=batches,
        validation_batches=lambda: iter([{"x": np.zeros(4, np.float32)}]),
        best=("error", False),
        pictures=lambda state, constants, batch: batch["x"],
        draw_validation=False,
        draw=lambda pictures, batch: {"x": np.zeros((4, 4, 3), np.uint8)},
        learning_rate=lambda step: learning_rate,
        examples=4,
    )
