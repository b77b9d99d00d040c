"""Contrastive losses over a batch: images against table rows, or two views.

Pure functions: embeddings -> loss, metrics.

The variants differ in two arguments only. The *positives* of an anchor are the rows that the loss
brings closer to it. Its *negatives* are the other rows in the denominator of its softmax. `targets`
computes both.

    standard (CLIP, SimCLR)            positives None                      negatives None several
    rows of one subject        positives None                      negatives distinct(subject) false
    negatives removed            positives None                      negatives ~same_label(label)
    supervised (SupCon)                positives same_label(label)         negatives None binary
    variants of the two above   the same, with same_label(label, only=1) nearest neighbours, soft
    targets   positives nearest(...) or soft(...) negatives None
"""

import itertools

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import (
    cosines,
    effective_rank,
    l2_normalise,
    masked_mean,
    valid_rows,
    zero_padding,
)
from morphojax.objectives.temperature import inverse_temperature

Array = jax.Array
Metrics = dict[str, Array]

_NEGATIVE = float(jnp.finfo(jnp.float32).min)  # value of a masked logit; finite, so a fully masked row gives no NaN


def info_nce(
    image: Array,
    table: Array,
    log_temperature: Array | float,
    image_to_table_weight: float = 0.5,
    valid: Array | None = None,
    positives: Array | None = None,
    negatives: Array | None = None,
) -> tuple[Array, Metrics]:
    """Cross-entropy between the images and the table rows of a batch, in both directions.

    Let l_ij = cosine(image i, table j) / tau, let p be the positives divided by their row sums, and
    let D_i hold the negatives of i, the positives of i and i itself. Then

        loss_i = -sum_j p_ij log(exp(l_ij) / sum_{k in D_i} exp(l_ik)),

    averaged over the images that have a positive. The table-to-image direction is the same with all
    matrices transposed, and p divided by the new row sums. With w = image_to_table_weight,
    loss = w * (image to table) + (1 - w) * (table to image).

    With p the identity this is Hager, Menten and Rueckert 2023 (arXiv:2303.14080, eq. 1 and 2;
    their lambda is w), with the positive in the denominator. With positives from labels it is the
    outer form of Khosla et al. 2020 (arXiv:2004.11362, eq. 2) across two modalities.

    Args:
      image, table: [B, P], any norm and float type; row i of both is the same subject.
      log_temperature: scalar, fixed or learned; the loss is differentiable in it.
      image_to_table_weight: w, in [0, 1].
      valid: bool [B]; False for padding, which is neither a positive nor a negative. None: all
        valid.
      positives: [B, B], bool or weights >= 0; (i, j) is the weight of table j as a positive of
        image i. No gradient. A row without a positive is left out of its direction. None: the
        identity.
      negatives: bool [B, B]; (i, j): table j enters the denominator of image i, and image i that of
        table j. None: all.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient. `loss_image_to_table`, `loss_table_to_image`.
        `top1_*`, `top5_*`, both directions: the fraction of valid rows whose own pair is among the
        1 or 5 largest logits. It is ranked against its negatives only, so a second row of the
        subject counts only if it is in `negatives`. A tie counts as an error. `temperature`.
        `embedding_norm_image`, `embedding_norm_table`: mean norms before normalisation.
        `effective_rank_image`, `effective_rank_table`: of the unit embeddings.

    Raises:
      ValueError: the shapes do not fit, image_to_table_weight lies outside [0, 1], or a log
        temperature given as a float is not finite.
    """
    if not 0 <= image_to_table_weight <= 1:
        raise ValueError(f"image_to_table_weight must lie in [0, 1], got {image_to_table_weight}")
    image, table, valid = _embeddings(image, table, valid)
    positives, negatives = _pairs(positives, negatives, valid)
    logits = cosines(image, table) * inverse_temperature(log_temperature)
    denominator = negatives | (positives > 0) | jnp.eye(len(image), dtype=bool)
    image_to_table = _cross_entropy(logits, positives, denominator)
    table_to_image = _cross_entropy(logits.T, positives.T, denominator.T)
    metrics = {
        "loss_image_to_table": image_to_table,
        "loss_table_to_image": table_to_image,
        **_retrieval_both_directions(logits, negatives, valid),
        **_description(log_temperature, valid, image=image, table=table),
    }
    loss = image_to_table_weight * image_to_table + (1 - image_to_table_weight) * table_to_image
    return loss, jax.lax.stop_gradient(metrics)


def between_planes(
    embedding: Array, present: Array, log_temperature: Array | float, negatives: Array | None = None
) -> tuple[Array, Metrics]:
    """Symmetric `info_nce` between each pair of planes, averaged over the pairs.

    A pair of planes counts if at least two subjects have both. The "full graph" loss of Tian et
    al., "Contrastive multiview coding", ECCV 2020 (arXiv:1906.05849, section 3.2), computed within
    a batch.

    Args:
      embedding: [B, V, P], any norm and float type: V planes of B subjects.
      present: bool [B, V]; a plane that a subject lacks has no influence and gets no gradient.
      log_temperature, negatives: as in `info_nce`.

    Returns:
      loss: float32 scalar (0 where no pair of planes is present in two subjects).
      metrics: `top1` of `info_nce`, averaged over both directions and all pairs.

    Raises:
      ValueError: the shapes do not fit, or there are fewer than two planes.
    """
    if embedding.ndim != 3 or present.shape != embedding.shape[:2]:
        raise ValueError(f"embedding must be [B, V, P] and present [B, V], got {embedding.shape} and {present.shape}")
    if embedding.shape[1] < 2:
        raise ValueError(f"between_planes needs at least two planes, got {embedding.shape[1]}")
    counted, losses, top1 = [], [], []
    for first, second in itertools.combinations(range(embedding.shape[1]), 2):
        both = present[:, first] & present[:, second]
        args = (embedding[:, first], embedding[:, second], log_temperature)
        loss, metrics = info_nce(*args, valid=both, negatives=negatives)
        counted.append(jnp.sum(both) > 1)
        losses.append(loss)
        top1.append((metrics["top1_image_to_table"] + metrics["top1_table_to_image"]) / 2)
    counted = jnp.stack(counted)
    return masked_mean(jnp.stack(losses), counted), {"top1": masked_mean(jnp.stack(top1), counted)}


def nt_xent(
    first: Array,
    second: Array,
    log_temperature: Array | float,
    valid: Array | None = None,
    positives: Array | None = None,
    negatives: Array | None = None,
) -> tuple[Array, Metrics]:
    """Each of the 2N views against the 2N - 1 others (Chen et al. 2020, arXiv:2002.05709, eq. 1).

    The two views may also be two modalities. Negatives come from both views. The loss of an anchor
    is that of `info_nce`, averaged over the 2N anchors. An anchor is neither a positive nor a
    negative of itself. The other view of its example is always a positive (of weight 1 where
    `positives` holds 0).

    With positives=targets.by_partition(...), slices at the same level of the heart are positives
    across subjects: the idea of the variant G^D of Chaitanya et al. 2020 (arXiv:2006.10511), whose
    negatives are the other levels. Two differences: here all slices of a level are positives (G^D
    takes one other volume), and the denominator holds all positives of an anchor (theirs holds only
    the one in the numerator). With negatives=~by_partition(...) and positives None it is their G^D-
    for two views: other slices of the same level are not in the denominator.

    Args:
      first, second: [N, P], any norm and float type; row i of both is the same example.
      log_temperature, valid: as in `info_nce`.
      positives, negatives: [N, N] over examples, as in `info_nce`; the same for all four pairs of
        views.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient. `top1`, `top5`: the fraction of anchors whose other
        view is among the 1 or 5 largest logits, ranked against their negatives. `temperature`;
        `embedding_norm_*` and `effective_rank_*` of `first` and `second`.

    Raises:
      ValueError: the shapes do not fit, or a log temperature given as a float is not finite.
    """
    first, second, valid = _embeddings(first, second, valid)
    positives, negatives = _pairs(positives, negatives, valid)
    example = jnp.eye(len(first), dtype=bool) & valid
    positives = jnp.where(example & (positives == 0), 1.0, positives)
    positives, negatives, example = (jnp.tile(x, (2, 2)) for x in (positives, negatives, example))
    itself = jnp.eye(len(positives), dtype=bool)
    positives = jnp.where(itself, 0.0, positives)
    views = jnp.concatenate([first, second])
    logits = cosines(views, views) * inverse_temperature(log_temperature)
    loss = _cross_entropy(logits, positives, negatives | (positives > 0))
    other_view = jnp.sum(jnp.where(example & ~itself, logits, 0.0), axis=1)
    metrics = {
        "top1": _retrieval(logits, other_view, negatives, jnp.tile(valid, 2), 1),
        "top5": _retrieval(logits, other_view, negatives, jnp.tile(valid, 2), 5),
        **_description(log_temperature, valid, first=first, second=second),
    }
    return loss, jax.lax.stop_gradient(metrics)


def sigmoid(
    image: Array,
    table: Array,
    log_temperature: Array | float,
    bias: Array | float,
    valid: Array | None = None,
    positives: Array | None = None,
    negatives: Array | None = None,
) -> tuple[Array, Metrics]:
    """Binary cross-entropy of all image-table pairs (SigLIP: Zhai et al. 2023, arXiv:2303.15343).

    With l_ij = cosine(image i, table j) / tau + bias and y_ij = 1 for positives and -1 for
    negatives, loss = -sum_ij log sigmoid(y_ij l_ij) / number of valid rows (their algorithm 1,
    where the bias is added to the logit). The authors start at tau = 0.1 and bias = -10, because
    nearly all pairs are negatives.

    Args:
      image, table, log_temperature, valid: as in `info_nce`.
      bias: scalar, fixed or learned; the loss is differentiable in it.
      positives, negatives: [B, B] as in `info_nce`, but only the sign of a weight counts: above 0
        is a positive. A pair that is neither is ignored; so is a subject's own pair if `positives`
        holds 0 there.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient. `loss_positives` and `loss_negatives`, whose sum is
        the loss; `bias`; retrieval, temperature, norms and ranks as in `info_nce`.

    Raises:
      ValueError: the shapes do not fit, or a log temperature given as a float is not finite.
    """
    image, table, valid = _embeddings(image, table, valid)
    positives, negatives = _pairs(positives, negatives, valid)
    logits = cosines(image, table) * inverse_temperature(log_temperature) + bias
    rows = jnp.maximum(jnp.sum(valid), 1)
    loss_positives = jnp.sum(jnp.where(positives > 0, jax.nn.softplus(-logits), 0.0)) / rows
    loss_negatives = jnp.sum(jnp.where(negatives & (positives == 0), jax.nn.softplus(logits), 0.0)) / rows
    metrics = {
        "loss_positives": loss_positives,
        "loss_negatives": loss_negatives,
        "bias": jnp.asarray(bias, jnp.float32),
        **_retrieval_both_directions(logits, negatives, valid),
        **_description(log_temperature, valid, image=image, table=table),
    }
    return loss_positives + loss_negatives, jax.lax.stop_gradient(metrics)


def _embeddings(a: Array, b: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Both embeddings checked, in float32, with padding set to zero; and valid as bool [B]."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"the two embeddings must both be [B, P], got {a.shape} and {b.shape}")
    valid = valid_rows(valid, len(a))
    return zero_padding(a, valid), zero_padding(b, valid), valid


def _pairs(positives: Array | None, negatives: Array | None, valid: Array) -> tuple[Array, Array]:
    """Positives float32 [B, B] and negatives bool [B, B] of valid rows, without own negatives."""
    own = jnp.eye(len(valid), dtype=bool)
    positives = own if positives is None else positives
    negatives = jnp.ones_like(own) if negatives is None else negatives
    for name, pairs in (("positives", positives), ("negatives", negatives)):
        if pairs.shape != own.shape:
            raise ValueError(f"{name} must be [B, B] = {list(own.shape)}, got {pairs.shape}")
    both = valid[:, None] & valid
    positives = jax.lax.stop_gradient(jnp.where(both, positives.astype(jnp.float32), 0.0))
    return positives, both & negatives.astype(bool) & ~own


def _cross_entropy(logits: Array, positives: Array, denominator: Array) -> Array:
    """The mean of -sum_j p_ij log softmax_ij over the rows that have a positive."""
    total = jnp.sum(positives, axis=1)
    p = positives / jnp.where(total > 0, total, 1.0)[:, None]
    normaliser = jax.nn.logsumexp(jnp.where(denominator, logits, _NEGATIVE), axis=1)
    return masked_mean(normaliser - jnp.sum(p * logits, axis=1), total > 0)


def _retrieval(logits: Array, own_logit: Array, negatives: Array, valid: Array, k: int) -> Array:
    """The fraction of valid rows whose own logit is among the k largest (a tie: an error)."""
    rank = jnp.sum(negatives & ~(logits < own_logit[:, None]), axis=1)
    return masked_mean((rank < k).astype(jnp.float32), valid)


def _retrieval_both_directions(logits: Array, negatives: Array, valid: Array) -> Metrics:
    own_logit = jnp.diagonal(logits)
    directions = {
        "image_to_table": (logits, own_logit, negatives),
        "table_to_image": (logits.T, own_logit, negatives.T),
    }
    return {
        f"top{k}_{direction}": _retrieval(*arrays, valid, k) for direction, arrays in directions.items() for k in (1, 5)
    }


def _description(log_temperature: Array | float, valid: Array, **embeddings: Array) -> Metrics:
    metrics = {"temperature": jnp.exp(jnp.asarray(log_temperature, jnp.float32))}
    for name, x in embeddings.items():
        metrics[f"embedding_norm_{name}"] = masked_mean(jnp.linalg.norm(x, axis=1), valid)
        metrics[f"effective_rank_{name}"] = effective_rank(l2_normalise(x))
    return metrics
