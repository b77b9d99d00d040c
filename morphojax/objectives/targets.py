"""Who is a positive of whom, and who is a negative: what the contrastive losses are told besides the embeddings.

Everything returns [B, B], (i, j) for row i towards row j, without gradient and never NaN. Padding needs no care here: the
losses leave out the pairs of rows that are not valid. Except in `nearest` and `soft`, which weigh a row against the rest of
the batch: there, the similarity of padding must be NaN or low, as that of `table_similarity` is for a row that is missing
throughout (0 to all others, and like everybody 1 to itself).
"""

import jax
import jax.numpy as jnp

from morphojax.objectives.contrastive import check_temperature

Array = jax.Array


def distinct(subject: Array) -> Array:
    """int [B] -> bool: pairs of different subjects, and the diagonal.

    As negatives it keeps two rows of one subject from being told apart.
    """
    return (subject[:, None] != subject) | _own(subject)


def same_label(label: Array, only: int | None = None) -> Array:
    """int [B] -> bool: pairs of one label, and the diagonal. A negative label is unknown and like no other.

    only: the one label that counts, for the binary variants: rows with another label are like no other row.
    """
    alike = (label[:, None] == label) & (label >= 0)
    return (alike if only is None else alike & (label == only)) | _own(label)


def by_partition(position: Array, partitions: int) -> Array:
    """float [B], 0 to 1 along the stack -> bool: pairs in the same of `partitions` equal parts (the last holds 1).

    Chaitanya et al. 2020 (arXiv:2006.10511) cut each volume into 4. A position that is NaN is like no other.

    Raises:
      ValueError: partitions below 1.
    """
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, got {partitions}")
    part = jnp.clip(jnp.floor(position.astype(jnp.float32) * partitions), 0, partitions - 1)
    return (part[:, None] == part) | _own(position)


def table_similarity(values: Array, missing: Array, cardinalities: tuple[int, ...], continuous_weight: float) -> Array:
    """Likeness of table rows, float32 in [0, 1]: symmetric, 1 on the diagonal.

    Over the columns that both rows know,
        continuous = exp(-mean squared difference)      (1/e at one standard deviation in every column),
        categorical = share of columns with equal codes,
        similarity = continuous_weight * continuous + (1 - continuous_weight) * categorical.
    Of a pair that knows columns of one kind only, that kind decides alone; without any, or any whose share is above 0, it
    is 0. Guiding image pairs by
    the weighted likeness of both kinds of columns is the idea of "Tables Guide Vision" (arXiv:2503.14998); the code of
    Hager et al. 2023 (arXiv:2303.14080) takes cosines of whole rows, which missing values and unordered codes bend.

    Args:
      values: [B, F]: continuous columns standardised, categorical ones integer codes.
      missing: bool [B, F]; what `values` holds there is not read. A value that is not finite counts as missing.
      cardinalities: for each column 1 (continuous) or its number of classes.
      continuous_weight: in [0, 1].

    Raises:
      ValueError: the shapes do not fit, or continuous_weight lies outside [0, 1].
    """
    if values.ndim != 2 or values.shape != missing.shape or values.shape[1] != len(cardinalities):
        raise ValueError(
            f"values and missing must be [B, F] with F = {len(cardinalities)} cardinalities, "
            f"got {values.shape} and {missing.shape}"
        )
    if not 0 <= continuous_weight <= 1:
        raise ValueError(f"continuous_weight must lie in [0, 1], got {continuous_weight}")
    known = ~missing.astype(bool) & jnp.isfinite(values)
    values = jnp.where(known, values.astype(jnp.float32), 0.0)
    continuous = jnp.array(cardinalities) == 1
    both = known[:, None] & known
    difference = values[:, None] - values
    # By differences, so that equal rows are exactly alike: rounding in a product of matrices would spoil it.
    columns = jnp.sum(both & continuous, axis=-1)
    distance = jnp.sum(jnp.where(both & continuous, jnp.square(difference), 0.0), axis=-1) / jnp.maximum(columns, 1)
    codes = jnp.sum(both & ~continuous, axis=-1)
    equal = jnp.sum(both & ~continuous & (difference == 0), axis=-1) / jnp.maximum(codes, 1)
    weight, other = continuous_weight * (columns > 0), (1 - continuous_weight) * (codes > 0)
    total = weight + other
    similarity = (weight * jnp.exp(-distance) + other * equal) / jnp.where(total > 0, total, 1.0)
    return jax.lax.stop_gradient(jnp.where(_own(values), 1.0, similarity))


def nearest(similarity: Array, k: int, threshold: float) -> Array:
    """float [B, B] -> bool: each row itself, and of its k most similar others those that reach the threshold.

    The code of Hager et al. 2023 has k = 6, the row itself among them, and a threshold of 0.9, and draws from those that
    reach it. Ties go to the lower index; NaN is like nobody. Not symmetric: a row may be among the nearest of one that is
    not among its own.

    Raises:
      ValueError: similarity is not square, or k below 1.
    """
    _check_square(similarity)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    own = _own(similarity)
    others = jnp.where(own | jnp.isnan(similarity), -jnp.inf, similarity)
    rank = jnp.argsort(jnp.argsort(-others, axis=1, stable=True), axis=1)
    return ((rank < k) & (others >= threshold)) | own


def soft(similarity: Array, temperature: float) -> Array:
    """float [B, B] -> float32 weights in proportion to exp(similarity / temperature), the largest 1. NaN has weight 0.

    A loss divides the weights of a row by their sum, which makes them the softmax. They are not divided here, so that what
    is symmetric stays so: the softmax over images of a table is then that of the same similarities.

    Raises:
      ValueError: similarity is not square, or the temperature is not finite and above 0.
    """
    _check_square(similarity)
    check_temperature(temperature)
    lowest = jnp.finfo(jnp.float32).min
    logits = jnp.where(jnp.isnan(similarity), lowest, similarity.astype(jnp.float32) / temperature)
    return jax.lax.stop_gradient(jnp.exp(logits - jnp.max(logits)))


def _own(x: Array) -> Array:
    return jnp.eye(len(x), dtype=bool)


def _check_square(similarity: Array) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be [B, B], got {similarity.shape}")
