"""Two views of an image assigned to the same prototypes, with all prototypes in use: SwAV."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import entr, logsumexp

from morphojax.objectives.contrastive import check_temperature
from morphojax.objectives.embeddings import masked_mean, valid_rows, zero_padding

Array = jax.Array
Metrics = dict[str, Array]


def sinkhorn(scores: Array, epsilon: float = 0.05, iterations: int = 3, valid: Array | None = None) -> Array:
    """Soft assignments of a batch that share the prototypes out evenly (Caron et al. 2020, arXiv:2006.09882, appendix A).

    exp(scores / epsilon), whose columns and rows are divided by their sums in turn, the rows last. In logarithms, where
    nothing overflows and no column vanishes however small epsilon is.

    Args:
      scores: [N, K], row i of the batch against prototype k, any float type. No gradient.
      epsilon: finite and above 0; the larger, the more uniform each row.
      iterations: at least 1; the more, the nearer the columns are to equal sums.
      valid: bool [N]; rows that are False take no share. None: all valid.

    Returns:
      float32 [N, K] without gradient: valid rows sum to 1, columns to about (number of valid rows) / K; padding is 0.

    Raises:
      ValueError: the shapes do not fit, epsilon is not finite and above 0, or iterations is below 1.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and above 0 (0.05 is usual), got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    valid = valid_rows(valid, len(scores))
    log_q = jax.lax.stop_gradient(zero_padding(scores, valid)) / epsilon
    counted = (valid | ~jnp.any(valid))[:, None]  # the logarithm of a sum over no rows would be infinite
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
    """The assignment of each view predicted from the other (Caron et al. 2020, arXiv:2006.09882, eq. 1 and 2).

    With q = sinkhorn(scores) of a view and p = softmax(scores / temperature), the loss of an example is
    -sum_k q2_k log p1_k - sum_k q1_k log p2_k; the mean runs over the valid examples. Each view's assignments are made
    from its own scores, over the whole batch.

    Args:
      first, second: [N, K], cosines of the two views and the prototypes, any float type; row i of both is one example.
      temperature: finite and above 0.
      epsilon, iterations, valid: as in `sinkhorn`.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient, from 1 to K. `perplexity_assignment`, exp of the mean entropy of an
        assignment: how many prototypes share an example (1 is sharp; K says nothing). `perplexity_batch`, exp of the
        entropy of the mean prediction: how many prototypes the batch is predicted to use (1 is collapse). Predictions
        and not assignments, whose mean is even by construction. Both 1 without valid rows.

    Raises:
      ValueError: the shapes do not fit, temperature or epsilon is not finite and above 0, or iterations is below 1.
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
    used = jnp.sum(jnp.where(both[..., None], jnp.exp(log_p), 0.0), axis=(0, 1)) / jnp.maximum(jnp.sum(both), 1)
    metrics = {
        "perplexity_assignment": jnp.exp(masked_mean(jnp.sum(entr(assignments), axis=-1), both)),
        "perplexity_batch": jnp.exp(jnp.sum(entr(used))),
    }
    return loss, jax.lax.stop_gradient(metrics)
