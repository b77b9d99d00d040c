"""When an objective acts, and the check of settings that all objectives share."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp


def check(name: str, value: object, holds: bool, what: str) -> None:
    """Raises ValueError `<name>=<value>: give <what>` where it does not hold; the caller prepends
    the key.
    """
    if not holds:
        raise ValueError(f"{name}={value}: give {what}")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The weight of an objective over the run: 0 until the fraction `start` of the run, then up to
    `weight`, linearly over the fraction `ramp`.

    At the start of a run the predictions are too poor to learn from. Raises ValueError for a number
    out of range.
    """

    weight: float = 1.0
    start: float = 0.25
    ramp: float = 0.25
    SETTINGS: ClassVar[tuple[str, ...]] = ("weight", "start", "ramp")

    def __post_init__(self) -> None:
        check("weight", self.weight, 0 <= self.weight < math.inf, "a weight, 0 or more")
        check("start", self.start, 0 <= self.start < 1, "a fraction of the run, from 0 to below 1")
        check("ramp", self.ramp, 0 <= self.ramp <= 1, "a fraction of the run, from 0 to 1")

    def first_step(self, steps: int) -> int:
        """The first step with a fraction above 0; 0 where the objective starts with the run."""
        return math.floor(self.start * steps) + 1 if self.start else 0

    def fraction(self, step: jax.Array, steps: int) -> jax.Array:
        """The fraction of the weight in effect at a step, 0 to 1. steps: of the run."""
        return jnp.clip((step / steps - self.start) / max(self.ramp, 1e-9), 0.0, 1.0)
