"""Image-table matching: a binary classification of pairs into positives and hard negatives.

After the image-text matching of Li et al. 2021 (ALBEF, arXiv:2107.07651). Hard negatives are
sampled by the similarity of the contrastive embeddings. A model that sees both modalities together
gives each pair a logit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import cosines, masked_mean, valid_rows, zero_padding
from morphojax.objectives.temperature import inverse_temperature

Array = jax.Array


class HardNegatives(NamedTuple):
    """Hard negatives: table row `table[i]` for image i, image `image[j]` for table row j.

    A row without negatives has `*_exists` False and its own index; its pair must not be counted.
    """

    table: Array
    table_exists: Array
    image: Array
    image_exists: Array


def hard_negatives(
    key: Array,
    image: Array,
    table: Array,
    log_temperature: Array | float,
    valid: Array | None = None,
    negatives: Array | None = None,
) -> HardNegatives:
    """A negative table row for each image and a negative image for each table row.

    Table row j is drawn for image i with probability proportional to exp(cosine(i, j) / tau), among
    the negatives of i other than i itself; images are drawn for table rows with the transposed
    matrix. The draw covers the whole [B, B] matrix, so it does not depend on the sharding of the
    batch.

    Args:
      key: a key from jax.random.key.
      image, table: [B, P], any norm and float type; row i of both is the same subject. No gradient.
      log_temperature: scalar; the lower, the harder the negatives.
      valid: bool [B]; False for padding, which draws nothing and is never drawn. None: all valid.
      negatives: bool [B, B]; (i, j): table row j may be drawn for image i, and image i for table
        row j. None: all.

    Raises:
      ValueError: the shapes do not fit, or a log temperature given as a float is not finite.
    """
    if image.shape != table.shape:
        raise ValueError(f"image and table embeddings must both be [B, P], got {image.shape} and {table.shape}")
    batch = len(image)
    valid = valid_rows(valid, batch)
    allowed = valid[:, None] & valid & ~jnp.eye(batch, dtype=bool)
    if negatives is not None:
        if negatives.shape != allowed.shape:
            raise ValueError(f"negatives must be [B, B] = {list(allowed.shape)}, got {negatives.shape}")
        allowed &= negatives.astype(bool)
    logits = cosines(zero_padding(image, valid), zero_padding(table, valid))
    logits *= inverse_temperature(log_temperature)

    def draw(key: Array, logits: Array, allowed: Array) -> tuple[Array, Array]:
        drawn = jax.random.categorical(key, jnp.where(allowed, logits, jnp.finfo(jnp.float32).min), axis=1)
        exists = jnp.any(allowed, axis=1)
        return jnp.where(exists, drawn, jnp.arange(batch)), exists

    for_image, for_table = jax.random.split(key)
    return HardNegatives(*draw(for_image, logits, allowed), *draw(for_table, logits.T, allowed.T))


def matching(
    positive_logit: Array,
    negative_logit: Array,
    positive_valid: Array | None = None,
    negative_valid: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Binary cross-entropy of pairs, averaged over all valid positive and negative pairs.

    Args:
      positive_logit: [B], of the positive pairs; negative_logit: [M], of the negative pairs (M = 2B
        with both directions of `hard_negatives`). Any float type, computed in float32.
      positive_valid: bool [B], negative_valid: bool [M]; False for pairs to ignore. None: all
        valid.

    Returns:
      loss: float32 scalar (0 when no pair is valid).
      metrics: float32 scalar without gradient: `accuracy`, the fraction of valid pairs whose logit
        has the correct sign (a logit of 0 is an error).

    Raises:
      ValueError: the shapes do not fit.
    """
    if positive_logit.ndim != 1 or negative_logit.ndim != 1:
        raise ValueError(f"logits must be [B] and [M], got {positive_logit.shape} and {negative_logit.shape}")
    valid = jnp.concatenate(
        [valid_rows(positive_valid, len(positive_logit)), valid_rows(negative_valid, len(negative_logit))]
    )
    # The logit with the sign of the correct class. Padding is set to zero, so a NaN in it reaches
    # no gradient.
    margin = jnp.concatenate([positive_logit.astype(jnp.float32), -negative_logit.astype(jnp.float32)])
    margin = jnp.where(valid, margin, 0.0)
    loss = masked_mean(jax.nn.softplus(-margin), valid)
    return loss, jax.lax.stop_gradient({"accuracy": masked_mean((margin > 0).astype(jnp.float32), valid)})
