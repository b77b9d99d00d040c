"""SwAV: two views of an image are assigned to the same prototypes; all prototypes are used."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import entr, logsumexp

from morphojax.objectives.embeddings import masked_mean, valid_rows, zero_padding
from morphojax.objectives.temperature import check_temperature

Array = jax.Array
Metrics = dict[str, Array]


def sinkhorn(scores: Array, epsilon: float = 0.05, iterations: int = 3, valid: Array | None = None) -> Array:
    """Soft assignments of a batch to prototypes, with about equal use of all prototypes.

    Caron et al. 2020 (arXiv:2006.09882, appendix A). The columns and the rows of exp(scores /
    epsilon) are divided by their sums in turn, the rows last. Computed with logarithms, so that
    nothing overflows and no column becomes zero for a small epsilon.

    Args:
      scores: [N, K], row i of the batch against prototype k, any float type. No gradient.
      epsilon: finite and above 0; the larger, the more uniform each row.
      iterations: at least 1; the more, the closer the column sums are to each other.
      valid: bool [N]; False for padding. None: all valid.

    Returns:
      float32 [N, K] without gradient: valid rows sum to 1, columns to about (number of valid rows)
      / K; padding is 0.

    Raises:
      ValueError: the shapes do not fit, epsilon is not finite and above 0, or iterations is below
        1.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and above 0 (0.05 is usual), got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    valid = valid_rows(valid, len(scores))
    log_q = jax.lax.stop_gradient(zero_padding(scores, valid)) / epsilon
    counted = (valid | ~jnp.any(valid))[:, None]  # without valid rows, sum over all: log of an empty sum is infinite
    for _ in range(iterations):
        log_q -= logsumexp(log_q, axis=0, keepdims=True, where=counted)
        log_q -= logsumexp(log_q, axis=1, keepdims=True)
    return jnp.where(valid[:, None], jnp.exp(log_q), 0.0)


def swav(
    first: Array,
    second: Array,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    valid: Array | None = None,
) -> tuple[Array, Metrics]:
    """Each view predicts the prototype assignment of the other.

    Caron et al. 2020 (arXiv:2006.09882, eq. 1 and 2). With q = sinkhorn(scores) and p =
    softmax(scores / temperature) of each view, the loss of an example is -sum_k q2_k log p1_k -
    sum_k q1_k log p2_k, averaged over the valid examples. The assignments of a view are computed
    from its own scores over the whole batch.

    Args:
      first, second: [N, K], cosines of the two views with the prototypes, any float type; row i of
        both is one example.
      temperature: finite and above 0.
      epsilon, iterations, valid: as in `sinkhorn`.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient, from 1 to K; both 1 without valid rows.
        `perplexity_assignment`: exp of the mean entropy of an assignment (1: one prototype per
        example; K: uniform). `perplexity_batch`: exp of the entropy of the mean prediction (1:
        collapse to one prototype). It uses predictions, because the mean assignment is uniform by
        construction.

    Raises:
      ValueError: the shapes do not fit, temperature or epsilon is not finite and above 0, or
        iterations is below 1.
    """
    check_temperature(temperature)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"the scores of the two views must both be [N, K], got {first.shape} and {second.shape}")
    valid = valid_rows(valid, len(first))
    scores = jnp.stack([zero_padding(first, valid), zero_padding(second, valid)])
    assignments = jnp.stack([sinkhorn(view, epsilon, iterations, valid) for view in scores])
    log_p = jax.nn.log_softmax(scores / temperature, axis=-1)
    loss = masked_mean(-jnp.sum(assignments[::-1] * log_p, axis=(0, 2)), valid)
    both = jnp.stack([valid, valid])
    mean_p = jnp.sum(jnp.where(both[..., None], jnp.exp(log_p), 0.0), axis=(0, 1)) / jnp.maximum(jnp.sum(both), 1)
    metrics = {
        "perplexity_assignment": jnp.exp(masked_mean(jnp.sum(entr(assignments), axis=-1), both)),
        "perplexity_batch": jnp.exp(jnp.sum(entr(mean_p))),
    }
    return loss, jax.lax.stop_gradient(metrics)
