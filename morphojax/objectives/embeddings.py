"""Embeddings of a batch: operations that the objectives share, and measures without gradient."""

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

Array = jax.Array

_HIGHEST = jax.lax.Precision.HIGHEST  # the default of accelerators rounds to TF32 or bf16, too coarse for a loss
_TINY = 1e-24  # smallest squared norm; below it the gradient of 1 / |x| overflows float32


def valid_rows(valid: Array | None, batch: int) -> Array:
    """bool [B], all True for None. Raises ValueError for another shape."""
    if valid is None:
        return jnp.ones(batch, bool)
    if valid.shape != (batch,):
        raise ValueError(f"valid must be [B] = [{batch}], got {valid.shape}")
    return valid.astype(bool)


def zero_padding(x: Array, valid: Array) -> Array:
    """[B, P] -> float32, zero where not valid.

    Padding (even NaN) then never reaches a loss or a gradient. Raises ValueError when x is not
    [B, P] for the B of valid.
    """
    if x.ndim != 2 or len(x) != len(valid):
        raise ValueError(f"embeddings must be [B, P] with B = {len(valid)}, got {x.shape}")
    return jnp.where(valid[:, None], x.astype(jnp.float32), 0.0)


def masked_mean(x: Array, mask: Array) -> Array:
    """The mean of x where the mask is True, 0 if it is False throughout; both of the same shape."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def l2_normalise(x: Array) -> Array:
    """[..., P] -> unit rows.

    A row shorter than 1e-12 becomes zero with zero gradient (x / |x| would give NaN). A row with
    NaN or infinity becomes NaN, so that the loss shows it.
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    short = square <= _TINY  # False for NaN
    return jnp.where(short, 0.0, x * jax.lax.rsqrt(jnp.where(short, 1.0, square)))


def cosines(a: Array, b: Array) -> Array:
    """[A, P], [B, P] -> [A, B]. A zero row has cosine 0 to everything."""
    return jnp.matmul(l2_normalise(a), l2_normalise(b).T, precision=_HIGHEST)


def alignment(a: Array, b: Array, valid: Array | None = None) -> Array:
    """[B, P] twice -> the mean squared distance of the unit embeddings of a pair, 0 (best) to 4.

    Wang and Isola 2020 (arXiv:2005.10242), with their exponent alpha = 2. 0 without valid rows.
    """
    valid = valid_rows(valid, len(a))
    a, b = _units(a, valid), _units(b, valid)
    return masked_mean(jnp.sum(jnp.square(a - b), axis=1), valid)


def uniformity(z: Array, valid: Array | None = None, t: float = 2.0) -> Array:
    """[B, P] -> log of the mean of exp(-t d^2) over pairs of different rows.

    d is the distance of the unit embeddings. Wang and Isola 2020 (arXiv:2005.10242). 0 for a
    collapsed batch; the more evenly the rows cover the sphere, the lower, and at least -4t. 0 with
    fewer than two valid rows.
    """
    valid = valid_rows(valid, len(z))
    z = _units(z, valid)
    square = jnp.sum(jnp.square(z), axis=1)
    distance = jnp.maximum(square[:, None] + square - 2 * jnp.matmul(z, z.T, precision=_HIGHEST), 0.0)
    pairs = valid[:, None] & valid & ~jnp.eye(len(z), dtype=bool)
    log_sum = jax.nn.logsumexp(-t * distance, where=pairs)
    return jnp.where(jnp.any(pairs), log_sum - jnp.log(jnp.maximum(jnp.sum(pairs), 1)), 0.0)


def modality_gap(a: Array, b: Array, valid: Array | None = None) -> Array:
    """[B, P] twice -> the distance between the centroids of the unit embeddings, 0 to 2.

    Liang et al. 2022 (arXiv:2203.02053). A gap of 0 does not mean that pairs agree; `alignment`
    measures that. 0 without valid rows.
    """
    valid = valid_rows(valid, len(a))
    difference = _units(a, valid) - _units(b, valid)  # padding is zero in both
    return jnp.linalg.norm(jnp.sum(difference, axis=0)) / jnp.maximum(jnp.sum(valid), 1)


def effective_rank(z: Array, valid: Array | None = None) -> Array:
    """[B, P] -> the effective rank, between 1 and min(B, P) (0 for an all-zero matrix).

    exp of the entropy of the singular values divided by their sum (Roy and Vetterli, "The effective
    rank", EUSIPCO 2007). z is neither centred nor normalised. Padding is set to zero, which does
    not change the other singular values.

    The singular values are square roots of the eigenvalues of the smaller Gram matrix. In float32
    their error is about min(B, P) * eps times the largest, so smaller eigenvalues are noise and
    count as zero.
    """
    rows, columns = z.shape
    z = jax.lax.stop_gradient(zero_padding(z, valid_rows(valid, rows)))
    gram = jnp.matmul(z.T, z, precision=_HIGHEST) if columns <= rows else jnp.matmul(z, z.T, precision=_HIGHEST)
    eigenvalues = jnp.linalg.eigvalsh(gram)
    floor = eigenvalues[-1] * min(rows, columns) * jnp.finfo(jnp.float32).eps
    singular = jnp.sqrt(jnp.where(eigenvalues > floor, eigenvalues, 0.0))
    total = jnp.sum(singular)
    p = singular / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, jnp.exp(jnp.sum(entr(p))), 0.0)


def linear_cka(x: Array, y: Array) -> Array:
    """[N, D], [N, E] -> linear centred kernel alignment of two representations, 0 to 1.

    |Y^T X|^2 / (|X^T X| |Y^T Y|) with Frobenius norms and centred features (Kornblith et al. 2019,
    arXiv:1905.00414, section 3). 1 if the two differ by a rotation, a scale and a shift only. 0 if
    one of the two is constant.

    The estimate is biased upwards: unrelated features get a value near 1 if they outnumber the
    examples, and near 0 only if N is far above D and E.

    Raises ValueError for other shapes.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"representations must be [N, D] and [N, E] of the same N examples, got {x.shape} and {y.shape}"
        )
    x, y = (_centred(z) for z in (x, y))

    def norm(a: Array, b: Array) -> Array:
        return jnp.linalg.norm(jnp.matmul(a.T, b, precision=_HIGHEST))

    scale = norm(x, x) * norm(y, y)
    return jnp.where(scale > 0, norm(x, y) ** 2 / jnp.where(scale > 0, scale, 1.0), 0.0)


def _centred(x: Array) -> Array:
    """x divided by its largest absolute value (products then stay finite), minus the mean row."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x))
    x = x / jnp.where(scale > 0, scale, 1.0)
    return x - x.mean(0)


def _units(x: Array, valid: Array) -> Array:
    return jax.lax.stop_gradient(l2_normalise(zero_padding(x, valid)))
