"""Contrast between two modalities of the same subject. Pure functions: embeddings -> loss, metrics."""

import jax
import jax.numpy as jnp

Array = jax.Array

_HIGHEST = jax.lax.Precision.HIGHEST  # accelerators would round these small, loss-critical products to TF32 or bf16
_NEGATIVE = float(jnp.finfo(jnp.float32).min)  # masks a logit; finite, so that a batch without valid rows stays finite


def l2_normalise(x: Array) -> Array:
    """[..., P] -> unit rows. A zero row stays zero and gets a zero gradient, where x / |x| would give NaN."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    positive = square > 0
    return jnp.where(positive, x * jax.lax.rsqrt(jnp.where(positive, square, 1.0)), 0.0)


def effective_rank(z: Array) -> Array:
    """[B, P] -> the effective rank, between 1 and min(B, P) (0 for an all-zero matrix).

    exp of the entropy of the singular values divided by their sum (Roy and Vetterli, "The effective rank", EUSIPCO
    2007), not centred. The singular values are square roots of the eigenvalues of the smaller Gram matrix; float32
    knows those only to about min(B, P) * eps of the largest, so smaller ones are noise and count as zero.
    """
    rows, columns = z.shape
    gram = jnp.matmul(z.T, z, precision=_HIGHEST) if columns <= rows else jnp.matmul(z, z.T, precision=_HIGHEST)
    eigenvalues = jnp.linalg.eigvalsh(gram)
    floor = eigenvalues[-1] * min(rows, columns) * jnp.finfo(jnp.float32).eps
    singular = jnp.sqrt(jnp.where(eigenvalues > floor, eigenvalues, 0.0))
    total = jnp.sum(singular)
    share = singular / jnp.where(total > 0, total, 1.0)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0))
    return jnp.where(total > 0, jnp.exp(entropy), 0.0)


def info_nce(
    image: Array, table: Array, log_temperature: Array | float, weight: float = 0.5, valid: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Symmetric InfoNCE between the images and the table rows of a batch.

    With unit embeddings z and temperature tau = exp(log_temperature), the logits are z_image z_table^T / tau, row i's
    positive is column i, and the loss is weight * CE(image -> table) + (1 - weight) * CE(table -> image): the softmax
    runs over columns for the first and over rows for the second, and the positive is part of the denominator
    (Hager, Menten and Rueckert, CVPR 2023, eq. 1 and 2; their lambda is `weight`).

    Args:
      image, table: [B, P], any norm and float type; row i of both is the same subject.
      log_temperature: scalar; fixed or learned, and differentiated.
      weight: share of the image-to-table direction, in [0, 1].
      valid: bool [B]; rows that are False are padding: neither a positive nor a negative of anything. None: all valid.

    Returns:
      loss: float32 scalar, the mean over valid rows (0 when there is none).
      metrics: float32 scalars without gradient. `loss_image_to_table`, `loss_table_to_image`;
        `top1_*` and `top5_*` in both directions, the share of valid rows whose positive is among the 1 or 5 largest
        logits, ties counted against us (so top5 is 1 when five rows or fewer are valid); `temperature`;
        `embedding_norm_image`, `embedding_norm_table`, mean norms before normalisation; `effective_rank_image`,
        `effective_rank_table`, of the unit embeddings.

    Raises:
      ValueError: the shapes do not fit, or weight lies outside [0, 1].
    """
    if image.ndim != 2 or image.shape != table.shape:
        raise ValueError(f"image and table embeddings must both be [B, P], got {image.shape} and {table.shape}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is the share of the image-to-table direction, in [0, 1], got {weight}")
    batch = image.shape[0]
    valid = jnp.ones(batch, bool) if valid is None else valid.astype(bool)
    if valid.shape != (batch,):
        raise ValueError(f"valid must be [B] = [{batch}], got {valid.shape}")

    # Padding is zeroed first, so that whatever it holds (even NaN) reaches neither the loss nor a gradient.
    image, table = (jnp.where(valid[:, None], x.astype(jnp.float32), 0.0) for x in (image, table))
    z_image, z_table = l2_normalise(image), l2_normalise(table)
    log_temperature = jnp.asarray(log_temperature, jnp.float32)
    logits = jnp.matmul(z_image, z_table.T, precision=_HIGHEST) * jnp.exp(-log_temperature)
    count = jnp.maximum(jnp.sum(valid), 1).astype(jnp.float32)

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(valid, x, 0.0)) / count

    def cross_entropy(logits: Array) -> Array:
        masked = jnp.where(valid[None, :], logits, _NEGATIVE)
        return mean(jax.nn.logsumexp(masked, axis=1) - jnp.diagonal(logits))

    def retrieval(logits: Array, k: int) -> Array:
        rivals = valid[None, :] & ~jnp.eye(batch, dtype=bool)
        # "not smaller" rather than "greater or equal": a NaN counts against us too.
        rank = jnp.sum(rivals & ~(logits < jnp.diagonal(logits)[:, None]), axis=1)
        return mean((rank < k).astype(jnp.float32))

    image_to_table, table_to_image = cross_entropy(logits), cross_entropy(logits.T)
    loss = weight * image_to_table + (1 - weight) * table_to_image
    metrics = {
        "loss_image_to_table": image_to_table,
        "loss_table_to_image": table_to_image,
        "top1_image_to_table": retrieval(logits, 1),
        "top5_image_to_table": retrieval(logits, 5),
        "top1_table_to_image": retrieval(logits.T, 1),
        "top5_table_to_image": retrieval(logits.T, 5),
        "temperature": jnp.exp(log_temperature),
        "embedding_norm_image": mean(jnp.linalg.norm(jax.lax.stop_gradient(image), axis=1)),
        "embedding_norm_table": mean(jnp.linalg.norm(jax.lax.stop_gradient(table), axis=1)),
        "effective_rank_image": effective_rank(jax.lax.stop_gradient(z_image)),
        "effective_rank_table": effective_rank(jax.lax.stop_gradient(z_table)),
    }
    return loss, jax.lax.stop_gradient(metrics)
