"""Losses on pseudo-labels and on mixtures of labelled and pseudo-labelled slices."""

import jax
import jax.numpy as jnp

Array = jax.Array


def weighted_dice_ce(
    logits: Array, label: Array, weight: Array, dice_weight: float = 0.5, smooth: float = 1.0
) -> tuple[Array, dict[str, Array]]:
    """dice_weight * (1 - soft Dice) + (1 - dice_weight) * cross-entropy, with a weight per pixel.

    Cross-entropy is sum w CE / sum w. Dice is computed per structure over all pixels of the batch,
    with weighted sums (2 sum w p y + smooth) / (sum w p + sum w y + smooth), and averaged over the
    structures that occur in the label with a weight above 0; see `segmentation.dice_ce` for the
    reasons.

    Args:
      logits: [B, H, W, C], class 0 the background; any float type, computed in float32.
      label: integer [B, H, W], class indices.
      weight: [B, H, W], 0 or more; pixels of weight 0 have no influence and get no gradient.

    Returns:
      loss: float32 scalar (0 where all weights are 0).
      metrics: `loss_dice`, `loss_cross_entropy`.

    Raises:
      ValueError: the shapes do not fit.
    """
    if logits.ndim != 4 or label.shape != logits.shape[:-1] or weight.shape != label.shape:
        raise ValueError(
            f"label and weight must be [B, H, W] for logits [B, H, W, C], got {label.shape}, {weight.shape} "
            f"and {logits.shape}"
        )
    weight = jax.lax.stop_gradient(weight.astype(jnp.float32))
    used = weight > 0
    log_p = jax.nn.log_softmax(jnp.where(used[..., None], logits.astype(jnp.float32), 0.0))
    target = label[..., None] == jnp.arange(logits.shape[-1])
    total = jnp.sum(weight)
    likelihood = jnp.sum(jnp.where(target, log_p, 0.0), axis=-1)
    cross_entropy = -jnp.sum(weight * likelihood) / jnp.where(total > 0, total, 1.0)

    w, p, y = weight[..., None], jnp.exp(log_p[..., 1:]), target[..., 1:]
    pixels = (0, 1, 2)
    size = jnp.sum(w * y, axis=pixels)
    overlap = jnp.sum(w * p * y, axis=pixels)
    dice = (2 * overlap + smooth) / (jnp.sum(w * p, axis=pixels) + size + smooth)
    present = size > 0
    dice_loss = jnp.sum(jnp.where(present, 1 - dice, 0.0)) / jnp.maximum(jnp.sum(present), 1)
    loss = dice_weight * dice_loss + (1 - dice_weight) * cross_entropy
    return loss, jax.lax.stop_gradient({"loss_dice": dice_loss, "loss_cross_entropy": cross_entropy})
