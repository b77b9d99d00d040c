"""Positives and negatives of the contrastive losses.

Each function returns [B, B] without gradient and never NaN; row i is the anchor.

The losses ignore pairs with padding, so most functions here need no `valid`. The exceptions are
`nearest` and `soft`, which compare a row with the whole batch: give padding a similarity of NaN or
0 to all other rows. `table_similarity` does so for a row whose values are all missing.
"""

import jax
import jax.numpy as jnp

from morphojax.objectives.temperature import check_temperature

Array = jax.Array


def distinct(subject: Array) -> Array:
    """int [B] -> bool: pairs of different subjects, and the diagonal.

    As `negatives`, it never makes two rows of the same subject negatives of each other.
    """
    return (subject[:, None] != subject) | _diagonal(subject)


def same_label(label: Array, only: int | None = None) -> Array:
    """int [B] -> bool: pairs with the same label, and the diagonal. Labels below 0 are unknown.

    only: for the binary variants, the one label whose rows are paired; other rows are paired with
      themselves only.
    """
    same = (label[:, None] == label) & (label >= 0)
    return (same if only is None else same & (label == only)) | _diagonal(label)


def by_partition(position: Array, partitions: int) -> Array:
    """float [B], 0 to 1 along the stack -> bool: pairs in the same of `partitions` equal parts.

    Chaitanya et al. 2020 (arXiv:2006.10511) use 4 parts. A position that is NaN is paired with
    itself only.

    Raises:
      ValueError: partitions below 1.
    """
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, got {partitions}")
    part = jnp.clip(jnp.floor(position.astype(jnp.float32) * partitions), 0, partitions - 1)
    return (part[:, None] == part) | _diagonal(position)


def table_similarity(values: Array, missing: Array, cardinalities: tuple[int, ...], continuous_weight: float) -> Array:
    """Similarity of table rows, float32 in [0, 1]: symmetric, 1 on the diagonal.

    Over the columns that are known in both rows,

        continuous = exp(-mean squared difference)   (1/e for one standard deviation per column),
        categorical = fraction of columns with equal codes,
        similarity = continuous_weight * continuous + (1 - continuous_weight) * categorical.

    If a pair shares known columns of one kind only, the similarity is that of this kind. It is 0 if
    there are none, or only columns of a kind whose weight is 0.

    "Tables Guide Vision" (arXiv:2503.14998) selects image pairs by such a weighted similarity of
    both kinds of columns. The code of Hager et al. 2023 (arXiv:2303.14080) takes cosines of whole
    rows instead, which missing values and the arbitrary order of codes distort.

    Args:
      values: [B, F]; continuous columns standardised, categorical columns as integer codes.
      missing: bool [B, F]; `values` is not read there. A value that is not finite counts as
        missing.
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
    # Differences give equal rows a similarity of exactly 1; a matrix product would add rounding
    # errors.
    columns = jnp.sum(both & continuous, axis=-1)
    distance = jnp.sum(jnp.where(both & continuous, jnp.square(difference), 0.0), axis=-1) / jnp.maximum(columns, 1)
    codes = jnp.sum(both & ~continuous, axis=-1)
    equal = jnp.sum(both & ~continuous & (difference == 0), axis=-1) / jnp.maximum(codes, 1)
    w_continuous, w_categorical = continuous_weight * (columns > 0), (1 - continuous_weight) * (codes > 0)
    total = w_continuous + w_categorical
    similarity = (w_continuous * jnp.exp(-distance) + w_categorical * equal) / jnp.where(total > 0, total, 1.0)
    return jax.lax.stop_gradient(jnp.where(_diagonal(values), 1.0, similarity))


def nearest(similarity: Array, k: int, threshold: float) -> Array:
    """float [B, B] -> bool: the diagonal, and the k most similar other rows of each row.

    Only rows with a similarity at or above the threshold are taken.

    The code of Hager et al. 2023 uses k = 6 (the row itself included) and a threshold of 0.9, and
    samples from the rows above it. Ties go to the lower index. NaN is never a neighbour. The result
    is not symmetric: j may be among the nearest of i without i being among the nearest of j.

    Raises:
      ValueError: similarity is not square, or k below 1.
    """
    _check_square(similarity)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    diagonal = _diagonal(similarity)
    candidates = jnp.where(diagonal | jnp.isnan(similarity), -jnp.inf, similarity)
    rank = jnp.argsort(jnp.argsort(-candidates, axis=1, stable=True), axis=1)
    return ((rank < k) & (candidates >= threshold)) | diagonal


def soft(similarity: Array, temperature: float) -> Array:
    """float [B, B] -> float32 weights proportional to exp(similarity / temperature), at most 1.

    NaN has weight 0.

    The losses divide each row by its sum, which gives the softmax. Not dividing here keeps a
    symmetric matrix symmetric, so that both directions (image to table, table to image) use the
    same similarities.

    Raises:
      ValueError: similarity is not square, or the temperature is not finite and above 0.
    """
    _check_square(similarity)
    check_temperature(temperature)
    lowest = jnp.finfo(jnp.float32).min
    logits = jnp.where(jnp.isnan(similarity), lowest, similarity.astype(jnp.float32) / temperature)
    return jax.lax.stop_gradient(jnp.exp(logits - jnp.max(logits)))


def _diagonal(x: Array) -> Array:
    return jnp.eye(len(x), dtype=bool)


def _check_square(similarity: Array) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be [B, B], got {similarity.shape}")
