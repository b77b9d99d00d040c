"""BYOL and SimSiam: one view predicts the embedding of the other, without negatives.

These losses can collapse to one embedding for all examples. Watch the metric `spread_*`, which is
then 0.
"""

from typing import Any

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import l2_normalise, masked_mean, valid_rows, zero_padding

Array = jax.Array
Metrics = dict[str, Array]


def byol(
    prediction_first: Array,
    prediction_second: Array,
    target_first: Array,
    target_second: Array,
    valid: Array | None = None,
) -> tuple[Array, Metrics]:
    """The mean over examples of (2 - 2 cos), summed over both directions.

    Grill et al. 2020 (arXiv:2006.07733, eq. 2). The prediction from the first view is compared with
    the target of the second, and vice versa. The loss lies between 0 and 8; unrelated embeddings
    give 4.

    Args:
      prediction_first, prediction_second: [N, P], the predictor's outputs, any norm and float type.
      target_first, target_second: [N, P], the teacher's projections of the same views
        (`moving_average`). Their gradient is stopped. Row i of all four is the same example.
      valid: bool [N]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar (0 when there is no valid row). A zero row has cosine 0 and gets no
        gradient.
      metrics: float32 scalars without gradient. `cosine`: mean of both directions.
        `spread_prediction`, `spread_target`: `spread`, mean of both views.

    Raises:
      ValueError: the shapes do not fit.
    """
    both, valid, metrics = _both_cosines(prediction_first, prediction_second, target_first, target_second, valid)
    return masked_mean(4 - 2 * both, valid), metrics


def simsiam(
    prediction_first: Array,
    prediction_second: Array,
    target_first: Array,
    target_second: Array,
    valid: Array | None = None,
) -> tuple[Array, Metrics]:
    """Half the sum of the negative cosines of both directions.

    Chen and He 2021 (arXiv:2011.10566, eq. 1 and 2). An affine function of `byol`, between -1 and
    1. The targets are the projections of the same network (the inputs of the predictor); their
    gradient is stopped here.

    Args, Returns, Raises: as `byol`; the loss is 0 when there is no valid row.
    """
    both, valid, metrics = _both_cosines(prediction_first, prediction_second, target_first, target_second, valid)
    return masked_mean(-both / 2, valid), metrics


def spread(z: Array, valid: Array | None = None) -> Array:
    """[N, P] -> sqrt(P) times the standard deviation of the unit embeddings over the batch.

    Averaged over columns. 0 when all rows point in one direction, about 1 when they are spread
    evenly, never above 1 (Chen and He 2021, arXiv:2011.10566, section 4.1, without the factor).
    float32 scalar without gradient; 0 without valid rows.
    """
    valid = valid_rows(valid, len(z))
    units = jax.lax.stop_gradient(l2_normalise(zero_padding(z, valid)))
    rows = jnp.maximum(jnp.sum(valid), 1)
    centred = jnp.where(valid[:, None], units - jnp.sum(units, axis=0) / rows, 0.0)
    deviation = jnp.sqrt(jnp.sum(jnp.square(centred), axis=0) / rows)
    return jnp.mean(deviation) * jnp.sqrt(jnp.float32(z.shape[1]))


def momentum(step: Array | int, steps: int, start: float) -> Array:
    """Momentum of the EMA teacher at step k of K: 1 - (1 - start) (cos(pi k / K) + 1) / 2.

    float32 scalar. Grill et al. 2020 (arXiv:2006.07733, section 3.2), who start at 0.996. It
    rises from `start` to 1 at step K and stays 1.

    Raises:
      ValueError: steps below 1, or start outside [0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= start <= 1:
        raise ValueError(f"start must lie in [0, 1], got {start}")
    done = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
    return 1 - (1 - start) * (jnp.cos(jnp.pi * done) + 1) / 2


def moving_average(averaged: Any, params: Any, tau: Array | float) -> Any:
    """tau * averaged + (1 - tau) * params, leaf by leaf (Grill et al. 2020, eq. 1).

    Args:
      averaged, params: pytrees of floating arrays with the same structure and shapes.
      tau: scalar in [0, 1], see `momentum`.

    Returns:
      a pytree with the structure and dtypes of `averaged`, as a train step must return them.

    Raises:
      ValueError: the structures or shapes differ.
    """

    def average(old: Array, new: Array) -> Array:
        if jnp.shape(old) != jnp.shape(new):
            raise ValueError(f"the average and the parameters differ in shape: {jnp.shape(old)} and {jnp.shape(new)}")
        wide = jnp.asarray(old, jnp.float32)
        return (wide + (1 - tau) * (jnp.asarray(new, jnp.float32) - wide)).astype(old.dtype)

    return jax.tree.map(average, averaged, params)


def _both_cosines(
    prediction_first: Array,
    prediction_second: Array,
    target_first: Array,
    target_second: Array,
    valid: Array | None,
) -> tuple[Array, Array, Metrics]:
    """The sum of the cosines of both directions [N], valid as bool [N], and the metrics."""
    predictions, targets = (prediction_first, prediction_second), (target_first, target_second)
    shapes = [x.shape for x in predictions + targets]
    if len(set(shapes)) > 1:
        raise ValueError(f"predictions and targets must all be [N, P], got {', '.join(map(str, shapes))}")
    valid = valid_rows(valid, len(prediction_first))
    p_first, p_second = (l2_normalise(zero_padding(x, valid)) for x in predictions)
    t_first, t_second = (jax.lax.stop_gradient(l2_normalise(zero_padding(x, valid))) for x in targets)
    both = jnp.sum(p_first * t_second + p_second * t_first, axis=1)
    metrics = {
        "cosine": masked_mean(both, valid) / 2,
        "spread_prediction": (spread(p_first, valid) + spread(p_second, valid)) / 2,
        "spread_target": (spread(t_first, valid) + spread(t_second, valid)) / 2,
    }
    return both, valid, jax.lax.stop_gradient(metrics)
