"""Contrast within a batch, of images with table rows or of two views. Pure functions: embeddings -> loss, metrics.

The family differs in two things only, and both are arguments: who is a *positive* of whom (what a row should be near) and
who is a *negative* (what it is told from: the rest of its denominator). `targets` makes both.

    ordinary (CLIP, SimCLR)             positives None                            negatives None
    a subject twice in a batch          positives None                            negatives distinct(subject)
    without false negatives             positives None                            negatives ~same_label(label)
    supervised (SupCon)                 positives same_label(label)               negatives None
    the binary variants of both         as above, with same_label(label, only=1)
    nearest neighbours, soft targets    positives nearest(...) or soft(...)       negatives None
"""

import itertools
import math

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

Array = jax.Array
Metrics = dict[str, Array]

_NEGATIVE = float(jnp.finfo(jnp.float32).min)  # masks a logit; finite, so that a row without any negative stays finite
_LOWEST, _LARGEST = math.log(0.01), math.log(1.0)  # of a learned log temperature


def check_temperature(temperature: float) -> None:
    """Raises ValueError for a temperature of a config that is not a finite number above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"a temperature must be finite and above 0 (0.1 is usual), got {temperature}")


def inverse_temperature(log_temperature: Array | float) -> Array:
    """1 / tau, float32, by which cosines become logits. Raises ValueError for a float that is not finite."""
    if isinstance(log_temperature, float) and not math.isfinite(log_temperature):
        raise ValueError(f"log_temperature must be finite, got {log_temperature}")
    return jnp.exp(-jnp.asarray(log_temperature, jnp.float32))


@jax.custom_vjp
def clip_log_temperature(log_temperature: Array) -> Array:
    """A learned log temperature, kept between log 0.01 and log 1.

    CLIP keeps its logit scale 1 / tau at most 100 (Radford et al. 2021, arXiv:2103.00020, section 2.5). At tau = 1 the
    logits are the bare cosines, too narrow a range for the softmax of a large batch to be sharp, and nothing above is
    of use. CLIP clips the parameter after each update; this clips where it is used, so beyond a bound the gradient
    passes only where a step against it leads back: a plain clip would leave the parameter stuck outside.
    """
    return jnp.clip(log_temperature, _LOWEST, _LARGEST)


def _clip_forward(log_temperature: Array) -> tuple[Array, Array]:
    return clip_log_temperature(log_temperature), log_temperature


def _clip_backward(log_temperature: Array, gradient: Array) -> tuple[Array]:
    outward = ((log_temperature < _LOWEST) & (gradient > 0)) | ((log_temperature > _LARGEST) & (gradient < 0))
    return (jnp.where(outward, 0.0, gradient),)


clip_log_temperature.defvjp(_clip_forward, _clip_backward)


def info_nce(
    image: Array,
    table: Array,
    log_temperature: Array | float,
    image_to_table_weight: float = 0.5,
    valid: Array | None = None,
    positives: Array | None = None,
    negatives: Array | None = None,
) -> tuple[Array, Metrics]:
    """Cross-entropy between the images and the table rows of a batch, both ways.

    With logits l_ij = cosine(image i, table j) / tau, p the positives divided by the sum of their row, and D_i = the negatives
    and the positives of i, and i itself,

        loss_i = -sum_j p_ij log(exp(l_ij) / sum_{k in D_i} exp(l_ik)),

    averaged over the images that have a positive; the same with everything transposed for the tables, divided anew;
    and, with w = image_to_table_weight, loss = w * (image to table) + (1 - w) * (table to image).
    With identity for p this is Hager, Menten and
    Rueckert 2023 (arXiv:2303.14080, eq. 1 and 2), whose lambda is w, with the positive in the denominator; with
    labels it is the outer form of Khosla et al. 2020 (arXiv:2004.11362, eq. 2) across the two modalities.

    Args:
      image, table: [B, P], any norm and float type; row i of both is the same subject.
      log_temperature: scalar; fixed or learned, and differentiated.
      image_to_table_weight: of the image-to-table direction, in [0, 1].
      valid: bool [B]; rows that are False are padding: neither a positive nor a negative of anything. None: all valid.
      positives: [B, B], bool or weights >= 0: (i, j) says how much image i should be near table j. No gradient. A row
        without any positive is left out of its direction. None: each row its own.
      negatives: bool [B, B]: may table j stand in the denominator of image i, and image i in that of table j. None: all.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient. `loss_image_to_table`, `loss_table_to_image`;
        `top1_*` and `top5_*` in both directions, the image_to_table_weight of valid rows whose own row is among the 1 or 5 largest
        logits, against its negatives alone (so another row of the same subject does not count when `negatives` leaves it
        out, and other positives do when it does not), ties counted against us; `temperature`;
        `embedding_norm_image`, `embedding_norm_table`, mean norms before normalisation; `effective_rank_image`,
        `effective_rank_table`, of the unit embeddings.

    Raises:
      ValueError: the shapes do not fit, image_to_table_weight lies outside [0, 1], or a log temperature given as a float is not finite.
    """
    if not 0 <= image_to_table_weight <= 1:
        raise ValueError(
            f"image_to_table_weight is that of the image-to-table direction, in [0, 1], got {image_to_table_weight}"
        )
    image, table, valid = _embeddings(image, table, valid)
    positives, negatives = _pairs(positives, negatives, valid)
    logits = cosines(image, table) * inverse_temperature(log_temperature)
    denominator = negatives | (positives > 0) | jnp.eye(len(image), dtype=bool)
    image_to_table = _cross_entropy(logits, positives, denominator)
    table_to_image = _cross_entropy(logits.T, positives.T, denominator.T)
    metrics = {
        "loss_image_to_table": image_to_table,
        "loss_table_to_image": table_to_image,
        **_retrieval_both_ways(logits, negatives, valid),
        **_description(log_temperature, valid, image=image, table=table),
    }
    return image_to_table_weight * image_to_table + (1 - image_to_table_weight) * table_to_image, jax.lax.stop_gradient(
        metrics
    )


def between_planes(
    embedding: Array, present: Array, log_temperature: Array | float, negatives: Array | None = None
) -> tuple[Array, Metrics]:
    """Symmetric `info_nce` between every two planes of the same subjects, averaged over the pairs that two subjects or more have.

    The contrast of several views of Tian et al., "Contrastive multiview coding", ECCV 2020 (arXiv:1906.05849, section 3.2, the full
    graph), within a batch.

    Args:
      embedding: [B, V, P], any norm and float type: V planes of B subjects.
      present: bool [B, V]; a plane that a subject lacks has neither influence nor gradient.
      log_temperature, negatives: as in `info_nce`.

    Returns:
      loss: float32 scalar, 0 where no two planes are shared by two subjects.
      metrics: `top1`, as of `info_nce`, both directions and the pairs averaged.

    Raises:
      ValueError: the shapes do not fit, or there are fewer than two planes.
    """
    if embedding.ndim != 3 or present.shape != embedding.shape[:2]:
        raise ValueError(f"embedding must be [B, V, P] and present [B, V], got {embedding.shape} and {present.shape}")
    if embedding.shape[1] < 2:
        raise ValueError("there must be two planes or more")
    shared, losses, hits = [], [], []
    for first, second in itertools.combinations(range(embedding.shape[1]), 2):
        both = present[:, first] & present[:, second]
        args = (embedding[:, first], embedding[:, second], log_temperature)
        loss, metrics = info_nce(*args, valid=both, negatives=negatives)
        shared.append(jnp.sum(both) > 1)
        losses.append(loss)
        hits.append((metrics["top1_image_to_table"] + metrics["top1_table_to_image"]) / 2)
    shared = jnp.stack(shared)
    return masked_mean(jnp.stack(losses), shared), {"top1": masked_mean(jnp.stack(hits), shared)}


def nt_xent(
    first: Array,
    second: Array,
    log_temperature: Array | float,
    valid: Array | None = None,
    positives: Array | None = None,
    negatives: Array | None = None,
) -> tuple[Array, Metrics]:
    """Each of the 2N views of a batch against the 2N - 1 others (Chen et al. 2020, arXiv:2002.05709, eq. 1).

    Two views of N examples, or two modalities; rows are told from rows of their own view too. The loss of a view is that
    of `info_nce`, and the mean runs over the 2N views. A view is no positive and no negative of itself, and the other view
    of an example is always a positive (of weight 1 where `positives` gives none).

    With positives of `targets.by_partition`, slices of one level of the heart are brought together across subjects: the
    idea of the variant G^D of Chaitanya et al. 2020 (arXiv:2006.10511), whose negatives are the other levels. It differs in
    that all slices of a level are positives, where G^D pairs a volume with one other, and in that a denominator holds all
    positives of the view, where theirs holds only the one that is scored. With negatives=~by_partition and positives None
    it is their G^D- for two views: other slices of the level are left out.

    Args:
      first, second: [N, P], any norm and float type; row i of both is the same example.
      log_temperature, valid: as in `info_nce`.
      positives, negatives: [N, N] as in `info_nce`, over examples: each of the four blocks of view against view reads them.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient. `top1`, `top5`, the image_to_table_weight of views whose other view is among the 1 or 5
        largest logits against negatives; `temperature`; `embedding_norm_*` and `effective_rank_*` of `first` and `second`.

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
    other = jnp.sum(jnp.where(example & ~itself, logits, 0.0), axis=1)
    metrics = {
        "top1": _retrieval(logits, other, negatives, jnp.tile(valid, 2), 1),
        "top5": _retrieval(logits, other, negatives, jnp.tile(valid, 2), 5),
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
    """Every pair of an image and a table row judged by itself (Zhai et al. 2023, SigLIP, arXiv:2303.15343).

    With l_ij = cosine(image i, table j) / tau + bias and y_ij = 1 for positives and -1 for negatives,
    loss = -sum_ij log sigmoid(y_ij l_ij) / number of valid rows: their algorithm 1, where the bias is added to a logit.
    They begin at tau = 0.1 and bias = -10, as nearly all pairs are negative ones.

    Args:
      image, table, log_temperature, valid: as in `info_nce`.
      bias: scalar; fixed or learned, and differentiated.
      positives, negatives: [B, B] as in `info_nce`, but a positive is a positive whatever its weight. A pair that is neither
        is left out, and so is a row's own pair where `positives` leaves it out.

    Returns:
      loss: float32 scalar (0 when there is no valid row).
      metrics: float32 scalars without gradient. `loss_positives` and `loss_negatives`, which add up to the loss; `bias`;
        retrieval, temperature, norms and ranks as in `info_nce`.

    Raises:
      ValueError: the shapes do not fit, or a log temperature given as a float is not finite.
    """
    image, table, valid = _embeddings(image, table, valid)
    positives, negatives = _pairs(positives, negatives, valid)
    logits = cosines(image, table) * inverse_temperature(log_temperature) + bias
    rows = jnp.maximum(jnp.sum(valid), 1)
    together = jnp.sum(jnp.where(positives > 0, jax.nn.softplus(-logits), 0.0)) / rows
    apart = jnp.sum(jnp.where(negatives & (positives == 0), jax.nn.softplus(logits), 0.0)) / rows
    metrics = {
        "loss_positives": together,
        "loss_negatives": apart,
        "bias": jnp.asarray(bias, jnp.float32),
        **_retrieval_both_ways(logits, negatives, valid),
        **_description(log_temperature, valid, image=image, table=table),
    }
    return together + apart, jax.lax.stop_gradient(metrics)


def _embeddings(a: Array, b: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Both checked, in float32 and without padding; and valid."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"the two embeddings must both be [B, P], got {a.shape} and {b.shape}")
    valid = valid_rows(valid, len(a))
    return zero_padding(a, valid), zero_padding(b, valid), valid


def _pairs(positives: Array | None, negatives: Array | None, valid: Array) -> tuple[Array, Array]:
    """Positives float32 [B, B] and negatives bool [B, B] among valid rows; no row is a negative of itself."""
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


def _retrieval(logits: Array, own: Array, negatives: Array, valid: Array, k: int) -> Array:
    # "not smaller" rather than "greater or equal": a NaN counts against us too.
    rank = jnp.sum(negatives & ~(logits < own[:, None]), axis=1)
    return masked_mean((rank < k).astype(jnp.float32), valid)


def _retrieval_both_ways(logits: Array, negatives: Array, valid: Array) -> Metrics:
    own = jnp.diagonal(logits)
    ways = {"image_to_table": (logits, own, negatives), "table_to_image": (logits.T, own, negatives.T)}
    return {f"top{k}_{way}": _retrieval(*arrays, valid, k) for way, arrays in ways.items() for k in (1, 5)}


def _description(log_temperature: Array | float, valid: Array, **embeddings: Array) -> Metrics:
    metrics = {"temperature": jnp.exp(jnp.asarray(log_temperature, jnp.float32))}
    for name, x in embeddings.items():
        x = jax.lax.stop_gradient(x)
        metrics[f"embedding_norm_{name}"] = masked_mean(jnp.linalg.norm(x, axis=1), valid)
        metrics[f"effective_rank_{name}"] = effective_rank(l2_normalise(x))
    return metrics
