"""Two views of an image, one predicted from the other, without negatives: BYOL, SimSiam, and the network that lags behind.

Nothing in these losses tells examples apart, so `spread` should be watched: it falls to 0 when all embeddings become one.
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
    """The mean over examples of (2 - 2 cos) from each view to the other (Grill et al. 2020, arXiv:2006.07733, eq. 2).

    The prediction made of the first view is compared with the target of the second, and the other way round; the two
    directions are added. Between 0 and 8; 4 for unrelated embeddings.

    Args:
      prediction_first, prediction_second: [N, P], the predictor's outputs, any norm and float type.
      target_first, target_second: [N, P], the projections of the same views by the lagging network (`moving_average`).
        No gradient. Row i of all four is the same example.
      valid: bool [N]; rows that are False are padding and have no influence. None: all valid.

    Returns:
      loss: float32 scalar (0 when there is no valid row). A zero row has cosine 0 to everything and gets no gradient.
      metrics: float32 scalars without gradient. `cosine`, the mean of both directions; `spread_prediction` and
        `spread_target`, means of both views.

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
    """Half the sum of the negative cosines of both directions (Chen and He 2021, arXiv:2011.10566, eq. 1 and 2).

    As `byol` (of which it is an affine function, between -1 and 1), but the targets are the projections of the network
    itself: what the predictor was given. The gradient is stopped here.

    Args, Returns, Raises: as `byol`; the loss is 0 when there is no valid row.
    """
    both, valid, metrics = _both_cosines(prediction_first, prediction_second, target_first, target_second, valid)
    return masked_mean(-both / 2, valid), metrics


def spread(z: Array, valid: Array | None = None) -> Array:
    """[N, P] -> the standard deviation of the unit embeddings over the batch, the mean over columns, times sqrt(P).

    0 when all rows point in one direction, about 1 when they are spread evenly, and never above 1 (Chen and He 2021,
    arXiv:2011.10566, section 4.1, who plot it without the factor). float32 scalar without gradient; 0 without valid rows.
    """
    valid = valid_rows(valid, len(z))
    units = jax.lax.stop_gradient(l2_normalise(zero_padding(z, valid)))
    rows = jnp.maximum(jnp.sum(valid), 1)
    centred = jnp.where(valid[:, None], units - jnp.sum(units, axis=0) / rows, 0.0)
    deviation = jnp.sqrt(jnp.sum(jnp.square(centred), axis=0) / rows)
    return jnp.mean(deviation) * jnp.sqrt(jnp.float32(z.shape[1]))


def momentum(step: Array | int, steps: int, start: float) -> Array:
    """How much of the lagging network is kept at step k of K: tau = 1 - (1 - start) (cos(pi k / K) + 1) / 2.

    Grill et al. 2020 (arXiv:2006.07733, section 3.2), who start at 0.996. It rises from `start` to 1 and stays there.
    float32 scalar.

    Raises:
      ValueError: steps below 1, or start outside [0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= start <= 1:
        raise ValueError(f"start is a share of the average, in [0, 1], got {start}")
    done = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
    return 1 - (1 - start) * (jnp.cos(jnp.pi * done) + 1) / 2


def moving_average(averaged: Any, params: Any, tau: Array | float) -> Any:
    """Leaf by leaf tau * averaged + (1 - tau) * params (Grill et al. 2020, arXiv:2006.07733, eq. 1).

    Args:
      averaged, params: pytrees of floating arrays, of one structure and shape.
      tau: scalar in [0, 1], see `momentum`.

    Returns:
      a pytree like `averaged`, in its dtypes, whatever that of tau: a train step must give back what it took.

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
    """[N], the cosines of both directions added; valid; metrics."""
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
