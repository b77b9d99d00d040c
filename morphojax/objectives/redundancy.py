"""Barlow Twins and VICReg: equal embeddings of two views, decorrelated embedding columns.

Column statistics are computed over the whole batch. The losses penalise collapse directly, so they
need neither negatives nor a teacher.
"""

import math

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import masked_mean, valid_rows, zero_padding

Array = jax.Array
Metrics = dict[str, Array]

_FLAT = 1e-5  # a standard deviation below this fraction of the root mean square is float32 rounding error
_EPSILON = 1e-4  # of VICReg, under the square root: keeps the gradient of a zero standard deviation finite


def barlow_twins(
    first: Array, second: Array, redundancy_weight: float = 5e-3, valid: Array | None = None
) -> tuple[Array, Metrics]:
    """Distance of the cross-correlation matrix of two views from the identity.

    Zbontar et al. 2021 (arXiv:2103.03230, eq. 1 and 2). With C_ij the correlation, over the batch,
    of column i of the first view and column j of the second, loss = sum_i (1 - C_ii)^2 +
    redundancy_weight * sum_{i != j} C_ij^2. It does not depend on the scale or the mean of a
    column. The correlation of a constant column counts as 0 and gets no gradient.

    Args:
      first, second: [N, P], any float type; row i of both is the same example.
      redundancy_weight: the paper's lambda, finite and not negative.
      valid: bool [N]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar (0 with fewer than two valid rows).
      metrics: float32 scalars without gradient. `loss_on_diagonal`, `loss_off_diagonal` (the two
        sums, unweighted); `correlation`, the mean of C_ii.

    Raises:
      ValueError: the shapes do not fit, N is below 2, or redundancy_weight is negative or not
        finite.
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

    With Z, Z' [N, P] the two views, the unbiased covariance matrix C of the columns of each, and
    S_j = sqrt(C_jj + 1e-4):

        v(Z) = 1/P sum_j max(0, 1 - S_j),    c(Z) = 1/P sum_{i != j} C_ij^2,
        s(Z, Z') = 1/(N P) sum |z_n - z'_n|^2,
        loss = invariance * s(Z, Z') + variance * (v(Z) + v(Z')) + covariance * (c(Z) + c(Z')).

    s is the mean squared error of the paper's Algorithm 1, with which the weights 25, 25, 1 belong.
    Eq. 5 as printed lacks the factor 1/P. (The authors' published code also halves v.)

    Args:
      first, second: [N, P], not normalised, any float type; row i of both is the same example.
      invariance, variance, covariance: weights, finite and not negative.
      valid: bool [N]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar. With one valid row, v and c are 0; without valid rows the loss is 0.
      metrics: float32 scalars without gradient. `loss_invariance`, `loss_variance`,
        `loss_covariance`: unweighted, the last two summed over both views. `std`: the mean of S
        over columns and views (about 0.01 after collapse).

    Raises:
      ValueError: the shapes do not fit, N is below 2, or a weight is negative or not finite.
    """
    _check_weights(invariance=invariance, variance=variance, covariance=covariance)
    first, second, valid = _views(first, second, valid)
    s = masked_mean(jnp.mean(jnp.square(first - second), axis=1), valid)
    v, c, std = (
        a + b for a, b in zip(_column_statistics(first, valid), _column_statistics(second, valid), strict=True)
    )
    metrics = {"loss_invariance": s, "loss_variance": v, "loss_covariance": c, "std": std / 2}
    return invariance * s + variance * v + covariance * c, jax.lax.stop_gradient(metrics)


def _views(first: Array, second: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Both views checked, in float32, with padding set to zero; and valid as bool [N]."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"the two views must both be [N, P], got {first.shape} and {second.shape}")
    if len(first) < 2:
        raise ValueError(f"statistics over the batch need at least 2 rows, got {len(first)}")
    valid = valid_rows(valid, len(first))
    return zero_padding(first, valid), zero_padding(second, valid), valid


def _centre(x: Array, valid: Array) -> Array:
    return jnp.where(valid[:, None], x - jnp.sum(x, axis=0) / jnp.maximum(jnp.sum(valid), 1), 0.0)


def _standardise(x: Array, valid: Array) -> Array:
    """Columns with mean 0 and biased variance 1 over valid rows; a constant column becomes 0."""
    rows = jnp.maximum(jnp.sum(valid), 1)
    centred = _centre(x, valid)
    variance = jnp.sum(jnp.square(centred), axis=0) / rows
    varies = variance > _FLAT**2 * jnp.sum(jnp.square(x), axis=0) / rows
    return jnp.where(varies, centred * jax.lax.rsqrt(jnp.where(varies, variance, 1.0)), 0.0)


def _column_statistics(x: Array, valid: Array) -> tuple[Array, Array, Array]:
    """VICReg's v and c of one view, and the mean of S; all 0 with fewer than two valid rows."""
    rows, centred = jnp.sum(valid), _centre(x, valid)
    matrix = jnp.matmul(centred.T, centred, precision="highest") / jnp.maximum(rows - 1, 1)
    std = jnp.sqrt(jnp.diagonal(matrix) + _EPSILON)
    v, mean_std = (jnp.where(rows > 1, jnp.mean(a), 0.0) for a in (jax.nn.relu(1 - std), std))
    return v, _off_diagonal(matrix) / len(matrix), mean_std


def _off_diagonal(matrix: Array) -> Array:
    return jnp.sum(jnp.square(jnp.where(jnp.eye(len(matrix), dtype=bool), 0.0, matrix)))


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {weight}")
