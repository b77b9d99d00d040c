"""Imputation of missing numbers by chained ridge regressions, fitted on training rows only.

Every column is regressed on all others, as in MICE (van Buuren and Groothuis-Oudshoorn, 2011), but
with a single expected value for each missing one instead of several random draws.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

SWEEPS = 10
RIDGE = 1e-5  # penalty per row, for standardised columns; keeps collinear columns stable


@dataclasses.dataclass(frozen=True)
class Imputer:
    """Predicts each of C standardised columns from the others.

    weights:   [C][C], row i predicts column i; its own weight is zero.
    offsets:   [C].
    low, high: [C], range of the training rows; predictions are clipped to it.
    """

    weights: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def columns(self) -> set[int]:
        """The lengths of its lists: a single one, the number of columns, unless it is damaged."""
        return {len(v) for v in (*self.weights, self.weights, self.offsets, self.low, self.high)}

    @classmethod
    def fit(cls, values: np.ndarray) -> Self:
        """Fits to float [N, C]: standardised, NaN where missing, no column all NaN."""
        missing = np.isnan(values)
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        filled = np.where(missing, 0.0, values)
        count = values.shape[1]
        weights, offsets = np.zeros((count, count)), np.zeros(count)
        for _ in range(SWEEPS):
            for i in range(count):
                known = ~missing[:, i]
                weights[i], offsets[i] = _ridge(filled[known], filled[known, i], i)
                filled[~known, i] = np.clip(filled[~known] @ weights[i] + offsets[i], low[i], high[i])
        rows = tuple(tuple(row) for row in weights.tolist())
        return cls(rows, *(tuple(v.tolist()) for v in (offsets, low, high)))

    def fill(self, values: np.ndarray) -> np.ndarray:
        """`values` [N, C] with predictions for NaN; a row that is all NaN becomes 0, the mean."""
        missing = np.isnan(values)
        filled = np.where(missing, 0.0, values)
        predictable = missing & ~missing.all(axis=1, keepdims=True)
        for _ in range(SWEEPS):
            for i, (weights, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
                prediction = filled[predictable[:, i]] @ np.array(weights) + offset
                filled[predictable[:, i], i] = np.clip(prediction, self.low[i], self.high[i])
        return filled

    def to_json(self) -> dict[str, Any]:
        return {key: [list(v) if isinstance(v, tuple) else v for v in value] for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        rows = tuple(tuple(row) for row in state["weights"])
        return cls(rows, *(tuple(state[key]) for key in ("offsets", "low", "high")))


def _ridge(inputs: np.ndarray, target: np.ndarray, own: int) -> tuple[np.ndarray, float]:
    """weights [C] and offset of `target` on all columns but `own`, whose weight is 0."""
    predictors = np.arange(inputs.shape[1]) != own
    mean, centre = inputs[:, predictors].mean(axis=0), target.mean()
    centred = inputs[:, predictors] - mean
    penalty = RIDGE * len(target) * np.eye(centred.shape[1])
    coefficients = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (target - centre))
    weights = np.zeros(inputs.shape[1])
    weights[predictors] = coefficients
    return weights, float(centre - mean @ coefficients)
