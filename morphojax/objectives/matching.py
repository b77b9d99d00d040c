"""Does this table row belong to this image? The binary question, asked of true pairs and of hard wrong ones.

Image-text matching of Li et al. 2021 (ALBEF, arXiv:2107.07651): wrong partners are drawn where the contrastive
embeddings are likely to be mistaken; a model that sees both modalities together then gives each pair a logit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from morphojax.objectives.contrastive import inverse_temperature
from morphojax.objectives.embeddings import cosines, masked_mean, valid_rows, zero_padding

Array = jax.Array


class HardNegatives(NamedTuple):
    """Wrong partners, by row of the batch: for image i the table `table[i]`, for table j the image `image[j]`.

    Where a row has no negative (`*_exists` False) the index is its own, and the pair must not be counted.
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
    """A wrong table for each image and a wrong image for each table, drawn from the softmax over its negatives.

    The probability of table j for image i is proportional to exp(cosine(i, j) / tau) among the negatives of i without i
    itself, and the same transposed. One draw over the whole [B, B], so the result does not depend on how the batch is
    sharded.

    Args:
      key: a key from jax.random.key.
      image, table: [B, P], any norm and float type; row i of both is the same subject. No gradient.
      log_temperature: scalar; the lower, the harder the partners.
      valid: bool [B]; rows that are False are drawn by nobody and draw nobody. None: all valid.
      negatives: bool [B, B]: may table j be drawn for image i, and image i for table j. None: all.

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
    """Binary cross-entropy of "these belong together", the mean over all valid pairs, true and wrong.

    Args:
      positive_logit: [B], of the true pairs; negative_logit: [M], of the wrong ones (2B when both directions of
        `hard_negatives` are asked). Any float type, computed in float32.
      positive_valid: bool [B], negative_valid: bool [M]; False pairs enter nothing. None: all valid.

    Returns:
      loss: float32 scalar (0 when no pair is valid).
      metrics: float32 scalar without gradient: `accuracy`, the share of valid pairs on the right side of 0 (0 itself is
        wrong for both), over true and wrong pairs alike.

    Raises:
      ValueError: the shapes do not fit.
    """
    if positive_logit.ndim != 1 or negative_logit.ndim != 1:
        raise ValueError(f"logits must be [B] and [M], got {positive_logit.shape} and {negative_logit.shape}")
    valid = jnp.concatenate(
        [valid_rows(positive_valid, len(positive_logit)), valid_rows(negative_valid, len(negative_logit))]
    )
    # How far each pair is on its right side. Padding is zeroed first, so that NaN there reaches no gradient.
    margin = jnp.concatenate([positive_logit.astype(jnp.float32), -negative_logit.astype(jnp.float32)])
    margin = jnp.where(valid, margin, 0.0)
    loss = masked_mean(jax.nn.softplus(-margin), valid)
    return loss, jax.lax.stop_gradient({"accuracy": masked_mean((margin > 0).astype(jnp.float32), valid)})
