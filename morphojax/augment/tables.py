"""Corruption and masking of table rows, on the device."""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array


def _choose(key: Array, shape: tuple[int, int], count: int) -> Array:
    """bool [B, F]: exactly `count` columns of each row, all choices equally likely."""
    # top_k instead of a threshold: with equal random numbers a threshold could select too many
    # columns.
    _, index = jax.lax.top_k(jax.random.uniform(key, shape), count)
    return jax.vmap(lambda i: jnp.zeros(shape[1], bool).at[i].set(True))(index)


@functools.partial(jax.jit, static_argnames=("shape", "rate"))
def mask_columns(key: Array, shape: tuple[int, int], rate: float) -> Array:
    """The columns to mask: bool [B, F], True = masked, drawn independently for each row.

    Exactly max(1, round(rate * F)) columns of each row (Python's round: halves to even), but not
    all of them unless F = 1.

    Args:
      shape: (B, F). rate: fraction of the columns, in (0, 1). Both static.

    Raises:
      ValueError: rate lies outside (0, 1), or there is no column.
    """
    columns = shape[1]
    if not 0 < rate < 1:
        raise ValueError(f"the mask rate must lie within (0, 1), got {rate}")
    if columns == 0:
        raise ValueError("mask_columns needs at least one column")
    return _choose(key, shape, max(1, min(round(rate * columns), columns - 1)))


@functools.partial(jax.jit, static_argnames="rate")
def corrupt(
    key: Array, values: Array, missing: Array, marginal: Array, marginal_missing: Array, rate: float
) -> tuple[Array, Array]:
    """Corrupts int(rate * F) random columns of each row with entries of training rows.

    The training row is drawn independently for each entry, which samples the empirical marginal
    distribution of the column (SCARF: Bahri et al., ICLR 2022). The entry's missing flag is copied
    too.

    Args:
      values, missing: [B, F], float and bool.
      marginal, marginal_missing: [N, F], the training rows.
      rate: fraction of the columns, in [0, 1]; static.

    Raises:
      ValueError: the shapes do not fit, there is no marginal row, or rate lies outside [0, 1].
    """
    batch, columns = values.shape
    rows = marginal.shape[0]
    if not 0 <= rate <= 1:
        raise ValueError(f"corruption rate must lie in [0, 1], got {rate}")
    if missing.shape != values.shape or marginal.shape != (rows, columns) or marginal_missing.shape != marginal.shape:
        shapes = [x.shape for x in (values, missing, marginal, marginal_missing)]
        raise ValueError(f"values and missing must be [B, F], marginal and marginal_missing [N, F], got {shapes}")
    if rows == 0:
        raise ValueError("corrupt needs at least one training row")
    if int(rate * columns) == 0:
        return values, missing
    columns_key, rows_key = jax.random.split(key)
    chosen = _choose(columns_key, (batch, columns), int(rate * columns))
    source = jax.random.randint(rows_key, (batch, columns), 0, rows)
    column = jnp.arange(columns)
    return (
        jnp.where(chosen, marginal[source, column].astype(values.dtype), values),
        jnp.where(chosen, marginal_missing[source, column], missing),
    )
