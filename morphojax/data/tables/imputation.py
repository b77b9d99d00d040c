"""Missing numbers told from the others of a row: chained ridge regressions, fitted on training rows alone (cf. van Buuren 2011, MICE).

Every column is regressed on all others. One guess is made of each missing value, the expected one, not several draws.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

SWEEPS = 10
RIDGE = 1e-5  # per row, of standardised columns: steadies columns that say the same


@dataclasses.dataclass(frozen=True)
class Imputer:
    """`weights` [C][C] (a column's own is zero) and `offsets` [C] predict each of C standardised columns from the others; a prediction
    is held within `low` and `high` [C], what the training rows span."""

    weights: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, values: np.ndarray) -> Self:
        """Learns from float [N, C], standardised, NaN where missing; in every column something is there."""
        missing = np.isnan(values)
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        filled = np.where(missing, 0.0, values)
        count = values.shape[1]
        weights, offsets = np.zeros((count, count)), np.zeros(count)
        for _ in range(SWEEPS):
            for i in range(count):
                seen = ~missing[:, i]
                weights[i], offsets[i] = _ridge(filled[seen], filled[seen, i], i)
                filled[~seen, i] = np.clip(filled[~seen] @ weights[i] + offsets[i], low[i], high[i])
        rows = tuple(tuple(row) for row in weights.tolist())
        return cls(rows, *(tuple(v.tolist()) for v in (offsets, low, high)))

    def fill(self, values: np.ndarray) -> np.ndarray:
        """[N, C] without NaN. A row of which nothing is known gets the mean, zero."""
        missing = np.isnan(values)
        filled = np.where(missing, 0.0, values)
        some = missing & ~missing.all(axis=1, keepdims=True)
        for _ in range(SWEEPS):
            for i, (weights, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
                guess = filled[some[:, i]] @ np.array(weights) + offset
                filled[some[:, i], i] = np.clip(guess, self.low[i], self.high[i])
        return filled

    def to_json(self) -> dict[str, Any]:
        return {key: [list(v) if isinstance(v, tuple) else v for v in value] for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        rows = tuple(tuple(row) for row in state["weights"])
        return cls(rows, *(tuple(state[key]) for key in ("offsets", "low", "high")))


def _ridge(inputs: np.ndarray, target: np.ndarray, own: int) -> tuple[np.ndarray, float]:
    """weights [C], that of column `own` zero, and offset."""
    others = np.arange(inputs.shape[1]) != own
    mean, centre = inputs[:, others].mean(axis=0), target.mean()
    centred = inputs[:, others] - mean
    penalty = RIDGE * len(target) * np.eye(centred.shape[1])
    solved = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (target - centre))
    weights = np.zeros(inputs.shape[1])
    weights[others] = solved
    return weights, float(centre - mean @ solved)
