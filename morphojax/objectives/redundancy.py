"""Two views of an image made alike, and the columns of the embedding unlike: Barlow Twins and VICReg.

The statistics of a column run over the whole batch. Collapse is costly by itself: no negatives and no lagging network.
"""

import math

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import masked_mean, valid_rows, zero_padding

Array = jax.Array
Metrics = dict[str, Array]

_FLAT = 1e-5  # a standard deviation below this share of the root mean square is mostly rounding in float32
_EPSILON = 1e-4  # VICReg's, under the square root: the gradient of a standard deviation of 0 stays finite


def barlow_twins(
    first: Array, second: Array, redundancy_weight: float = 5e-3, valid: Array | None = None
) -> tuple[Array, Metrics]:
    """Cross-correlation of the columns of two views, near identity (Zbontar et al. 2021, arXiv:2103.03230, eq. 1 and 2).

    With C_ij the correlation over the batch of column i of the first view and column j of the second,
    loss = sum_i (1 - C_ii)^2 + redundancy_weight * sum_{i != j} C_ij^2. It does not change with the scale or the mean of
    a column. The correlation of a column that does not vary is undefined; it counts as 0 and gets no gradient.

    Args:
      first, second: [N, P], any float type; row i of both is the same example.
      redundancy_weight: lambda, finite and not negative.
      valid: bool [N]; rows that are False are padding and have no influence. None: all valid.

    Returns:
      loss: float32 scalar (0 with fewer than two valid rows).
      metrics: float32 scalars without gradient. `loss_on_diagonal`, `loss_off_diagonal` (the two sums, unweighted);
        `correlation`, the mean of C_ii.

    Raises:
      ValueError: the shapes do not fit, N is below 2, or redundancy_weight is negative or not finite.
    """
    _check_weights(redundancy_weight=redundancy_weight)
    first, second, valid = _views(first, second, valid)
    rows = jnp.sum(valid)
    first, second = _standardise(first, valid), _standardise(second, valid)
    correlation = jnp.matmul(first.T, second, precision="highest") / jnp.maximum(rows, 1)
    diagonal = jnp.diagonal(correlation)
    on = jnp.where(rows > 1, jnp.sum(jnp.square(1 - diagonal)), 0.0)
    off = _off_diagonal(correlation)
    metrics = {"loss_on_diagonal": on, "loss_off_diagonal": off, "correlation": jnp.mean(diagonal)}
    return on + redundancy_weight * off, jax.lax.stop_gradient(metrics)


def vicreg(
    first: Array,
    second: Array,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    valid: Array | None = None,
) -> tuple[Array, Metrics]:
    """Variance, invariance and covariance (Bardes et al. 2022, arXiv:2105.04906, eq. 1 to 6).

    With Z, Z' [N, P] the two views, the unbiased covariance matrix C of the columns of each, and S_j = sqrt(C_jj + 1e-4):

        v(Z) = 1/P sum_j max(0, 1 - S_j),    c(Z) = 1/P sum_{i != j} C_ij^2,    s(Z, Z') = 1/(N P) sum |z_n - z'_n|^2,
        loss = invariance * s(Z, Z') + variance * (v(Z) + v(Z')) + covariance * (c(Z) + c(Z')).

    s is the mean squared error of the paper's Algorithm 1, for which its weights 25, 25, 1 are meant; eq. 5 as printed
    lacks the 1/P, and would weigh invariance P times more. (The code that the authors published halves v besides.)

    Args:
      first, second: [N, P], not normalised, any float type; row i of both is the same example.
      invariance, variance, covariance: weights, finite and not negative.
      valid: bool [N]; rows that are False are padding and have no influence. None: all valid.

    Returns:
      loss: float32 scalar. With one valid row only s is defined, and the rest is 0; with none all is 0.
      metrics: float32 scalars without gradient. `loss_invariance`, `loss_variance`, `loss_covariance`, unweighted, the
        latter two sums of both views; `std`, the mean of S over columns and views (about 0.01 in a collapsed batch).

    Raises:
      ValueError: the shapes do not fit, N is below 2, or a weight is negative or not finite.
    """
    _check_weights(invariance=invariance, variance=variance, covariance=covariance)
    first, second, valid = _views(first, second, valid)
    alike = masked_mean(jnp.mean(jnp.square(first - second), axis=1), valid)
    varied, apart, std = (a + b for a, b in zip(_spread(first, valid), _spread(second, valid), strict=True))
    metrics = {"loss_invariance": alike, "loss_variance": varied, "loss_covariance": apart, "std": std / 2}
    return invariance * alike + variance * varied + covariance * apart, jax.lax.stop_gradient(metrics)


def _views(first: Array, second: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Both checked, in float32 and without padding; and valid."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"the two views must both be [N, P], got {first.shape} and {second.shape}")
    if len(first) < 2:
        raise ValueError(f"statistics over the batch need at least 2 rows, got {len(first)}")
    valid = valid_rows(valid, len(first))
    return zero_padding(first, valid), zero_padding(second, valid), valid


def _centre(x: Array, valid: Array) -> Array:
    return jnp.where(valid[:, None], x - jnp.sum(x, axis=0) / jnp.maximum(jnp.sum(valid), 1), 0.0)


def _standardise(x: Array, valid: Array) -> Array:
    """Columns of mean 0 and biased variance 1 over the valid rows; 0 throughout where they do not vary."""
    rows = jnp.maximum(jnp.sum(valid), 1)
    centred = _centre(x, valid)
    variance = jnp.sum(jnp.square(centred), axis=0) / rows
    varies = variance > _FLAT**2 * jnp.sum(jnp.square(x), axis=0) / rows
    return jnp.where(varies, centred * jax.lax.rsqrt(jnp.where(varies, variance, 1.0)), 0.0)


def _spread(x: Array, valid: Array) -> tuple[Array, Array, Array]:
    """VICReg's v and c of one view, and the mean of S; 0 with fewer than two valid rows."""
    rows, centred = jnp.sum(valid), _centre(x, valid)
    matrix = jnp.matmul(centred.T, centred, precision="highest") / jnp.maximum(rows - 1, 1)
    std = jnp.sqrt(jnp.diagonal(matrix) + _EPSILON)
    varied, mean_std = (jnp.where(rows > 1, jnp.mean(a), 0.0) for a in (jax.nn.relu(1 - std), std))
    return varied, _off_diagonal(matrix) / len(matrix), mean_std


def _off_diagonal(matrix: Array) -> Array:
    return jnp.sum(jnp.square(jnp.where(jnp.eye(len(matrix), dtype=bool), 0.0, matrix)))


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {weight}")
