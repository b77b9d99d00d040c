"""Prediction of table columns, from the image or from other columns.

Pure functions: prediction -> loss, metrics.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from morphojax.objectives.embeddings import masked_mean, valid_rows

Array = jax.Array
Metrics = dict[str, Array]


def regression(
    prediction: Array,
    values: Array,
    missing: Array,
    columns: Sequence[int],
    valid: Array | None = None,
    huber_delta: float | None = None,
) -> tuple[Array, Metrics]:
    """Squared error of continuous columns: the mean over known rows, then over columns.

    A column with many missing values has the same weight as a complete one. A column without any
    known value in the batch is left out.

    Args:
      prediction: [B, len(columns)], any float type, in the order of `columns`.
      values: [B, F], continuous columns standardised on the training rows; no gradient.
      missing: bool [B, F]; `values` is not read there. A value that is not finite counts as
        missing.
      columns: indices of the continuous columns to predict.
      valid: bool [B]; False for padding. None: all valid.
      huber_delta: d, in standard deviations. An error e above it costs 2 d |e| - d^2 instead of
        e^2: twice the function of Huber 1964 ("Robust estimation of a location parameter", Ann.
        Math. Stat. 35), so that small errors cost the same with and without it. None: e^2 for all
        errors.

    Returns:
      loss: float32 scalar (0 when no value is known).
      metrics: float32 scalars without gradient. `mse`: the loss without huber_delta.
        `r2` = 1 - mse / (the same mean of the squared values): the fraction of variance explained,
        relative to the mean of the training rows, which is 0 after standardisation (0 where no
        value is known).

    Raises:
      ValueError: the shapes do not fit, columns are none, repeated or outside 0..F-1, or
        huber_delta is not finite and above 0.
    """
    _check_table(values, missing=missing)
    chosen = np.asarray(columns, int)
    if not chosen.size or len(set(columns)) < len(chosen) or chosen.min() < 0 or chosen.max() >= values.shape[1]:
        raise ValueError(f"columns must be distinct indices in 0..{values.shape[1] - 1}, got {chosen.tolist()}")
    if prediction.shape != (len(values), len(chosen)):
        raise ValueError(f"prediction must be [B, columns] = {(len(values), len(chosen))}, got {prediction.shape}")
    if huber_delta is not None and not (math.isfinite(huber_delta) and huber_delta > 0):
        raise ValueError(f"huber_delta must be finite and above 0, or None for squared errors, got {huber_delta}")
    known = (~missing.astype(bool) & jnp.isfinite(values) & valid_rows(valid, len(values))[:, None])[:, chosen]
    target = jax.lax.stop_gradient(jnp.where(known, values[:, chosen].astype(jnp.float32), 0.0))
    error = jnp.where(known, prediction.astype(jnp.float32) - target, 0.0)
    mse = _mean_of_columns(jnp.square(error), known)
    baseline = _mean_of_columns(jnp.square(target), known)
    loss = (
        mse if huber_delta is None else _mean_of_columns(2 * optax.losses.huber_loss(error, delta=huber_delta), known)
    )
    r2 = jnp.where(baseline > 0, 1 - mse / jnp.where(baseline > 0, baseline, 1.0), 0.0)
    return loss, jax.lax.stop_gradient({"mse": mse, "r2": r2})


def reconstruction(
    prediction: Array,
    values: Array,
    missing: Array,
    masked: Array,
    cardinalities: Sequence[int],
    valid: Array | None = None,
) -> tuple[Array, Metrics]:
    """Prediction of masked columns.

    As in VIME (Yoon et al. 2020) and TIP (Du et al. 2024, arXiv:2407.07582). The loss is the mean
    over all masked entries with a known value: (prediction - value)^2 for a continuous column, -log
    softmax(prediction)_code for a categorical one. All entries have the same weight.

    Args:
      prediction: [B, sum of cardinalities], any float type, in the order of the columns: one value
        for a continuous column, k logits for a column of k classes.
      values: [B, F]; continuous columns standardised, categorical columns as integer codes; no
        gradient.
      missing: bool [B, F]; `values` is not read there. A value that is not finite and a code
        outside 0..k-1 count as missing.
      masked: bool [B, F]; True where the value was masked for the encoder.
      cardinalities: for each column 1 (continuous) or its number of classes.
      valid: bool [B]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar (0 when no known entry is masked).
      metrics: float32 scalars without gradient, over the masked and known entries of each kind (0
        without any). `continuous`: mean squared error; `categorical`: mean cross-entropy;
        `accuracy`: the fraction of categorical entries whose largest logit is that of their class.

    Raises:
      ValueError: the shapes do not fit, or a cardinality is below 1.
    """
    _check_table(values, missing=missing, masked=masked)
    sizes = np.asarray(cardinalities, int)
    if len(sizes) != values.shape[1] or (sizes < 1).any():
        raise ValueError(f"cardinalities must be {values.shape[1]} numbers above 0, got {sizes.tolist()}")
    if prediction.shape != (len(values), sizes.sum()):
        shape = (len(values), int(sizes.sum()))
        raise ValueError(f"prediction must be [B, sum of cardinalities] = {shape}, got {prediction.shape}")
    continuous = sizes == 1
    is_code = (values >= 0) & (values < sizes) & (jnp.floor(values) == values)
    known = jnp.isfinite(values) & (continuous | is_code)
    counted = known & ~missing.astype(bool) & masked.astype(bool) & valid_rows(valid, len(values))[:, None]
    values = jax.lax.stop_gradient(jnp.where(counted, values.astype(jnp.float32), 0.0))
    cost, correct = _entry_costs(prediction.astype(jnp.float32), values, counted, sizes)
    metrics = {
        "continuous": masked_mean(cost, counted & continuous),
        "categorical": masked_mean(cost, counted & ~continuous),
        "accuracy": masked_mean(correct.astype(jnp.float32), counted & ~continuous),
    }
    return masked_mean(cost, counted), jax.lax.stop_gradient(metrics)


def _entry_costs(prediction: Array, values: Array, counted: Array, sizes: np.ndarray) -> tuple[Array, Array]:
    """[B, F] twice: the cost of each entry, and whether its class is predicted correctly.

    Columns of the same cardinality are computed together.
    """
    first = np.cumsum(sizes) - sizes
    cost, correct = jnp.zeros(values.shape, jnp.float32), jnp.zeros(values.shape, bool)
    for k in np.unique(sizes):
        columns = np.flatnonzero(sizes == k)
        out = prediction[:, first[columns][:, None] + np.arange(k)]
        out = jnp.where(counted[:, columns, None], out, 0.0)
        if k == 1:
            cost = cost.at[:, columns].set(jnp.square(out[..., 0] - values[:, columns]))
            continue
        code = values[:, columns].astype(jnp.int32)
        cost = cost.at[:, columns].set(optax.losses.softmax_cross_entropy_with_integer_labels(out, code))
        correct = correct.at[:, columns].set(jnp.argmax(out, axis=-1) == code)
    return cost, correct


def _mean_of_columns(x: Array, known: Array) -> Array:
    """[B, F] twice -> the mean over known rows, then over the columns with any known row."""
    rows = jnp.sum(known, axis=0)
    mean = jnp.sum(jnp.where(known, x, 0.0), axis=0) / jnp.maximum(rows, 1)
    return masked_mean(mean, rows > 0)


def _check_table(values: Array, **masks: Array) -> None:
    for name, mask in masks.items():
        if values.ndim != 2 or mask.shape != values.shape:
            raise ValueError(f"values and {name} must be [B, F], got {values.shape} and {mask.shape}")
