"""Overlap and cross-entropy for partially labelled slices. Pure functions: logits -> loss, metrics."""

import jax
import jax.numpy as jnp

Array = jax.Array

_NEGATIVE = float(jnp.finfo(jnp.float32).min)  # exp of it is 0, and it stays finite in gradients


def dice_ce(
    logits: Array,
    label: Array,
    labelled: Array,
    valid: Array | None = None,
    dice_weight: float = 0.5,
    smooth: float = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """dice_weight * (1 - soft Dice) + (1 - dice_weight) * cross-entropy, where absent and unlabelled differ.

    **Unlabelled** structures (`labelled` False) may be anywhere in the background, so their probability is added to the
    background's: the marginal loss of Shi et al., "Marginal loss and exclusion loss for partially supervised
    multi-organ segmentation", Medical Image Analysis 2021. A slice without any labelled structure says nothing and
    is left out of every mean.

    **Absent** structures (labelled, but not in the slice, as the left ventricle beyond the apex). Dice is taken per
    structure over the pixels of the whole batch (of the slices where it is labelled), (2I + smooth) / (C + smooth),
    so a slice without the structure only adds its false positives. A structure absent from the whole batch leaves the
    mean over structures: its Dice would be smooth / (C + smooth), whose gradient is large exactly where the prediction
    is already right (1 / smooth per pixel at C = 0). Cross-entropy still teaches its absence.
    `smooth`, in pixels, bounds the gradient when a structure shows only a few pixels, and is nothing against the
    hundreds that a structure usually has.

    Args:
      logits: [B, H, W, n], class 0 is the background; any float type, computed in float32.
      label: integer [B, H, W], class index. A pixel of an unlabelled structure reads as background.
      labelled: bool [B, n-1] or [n-1]: is structure i annotated (class i + 1).
      valid: bool [B], False for padding, which enters neither loss nor metrics. None: all valid.

    Returns:
      loss: float32 scalar. NaN when a valid slice holds a label outside 0..n-1, which no loss can be right about
        (inside jit nothing can be raised; a NaN loss stops the run).
      metrics, without gradient: scalars `loss_dice`, `loss_cross_entropy`; and for the hard prediction (argmax over
        all classes) `intersection` and `cardinality`, int32 [B, n-1], pixels in both and the sum of pixels in each,
        zero for what is unlabelled or padding. Summed over any number of batches, 2 * intersection / cardinality is
        the exact Dice.

    Raises:
      ValueError: the shapes do not fit, or dice_weight lies outside [0, 1].
    """
    batch, n = logits.shape[0], logits.shape[-1]
    if logits.ndim != 4 or label.shape != logits.shape[:-1]:
        raise ValueError(f"logits must be [B, H, W, n] and label [B, H, W], got {logits.shape} and {label.shape}")
    labelled = jnp.asarray(labelled, bool)
    if labelled.shape not in ((n - 1,), (batch, n - 1)):
        raise ValueError(f"labelled must be [{n - 1}] or [{batch}, {n - 1}] for {n} classes, got {labelled.shape}")
    if not 0 <= dice_weight <= 1:
        raise ValueError(f"dice_weight must lie in [0, 1], got {dice_weight}")
    valid = jnp.ones(batch, bool) if valid is None else valid.astype(bool)
    if valid.shape != (batch,):
        raise ValueError(f"valid must be [B] = [{batch}], got {valid.shape}")

    known = jnp.broadcast_to(labelled, (batch, n - 1)) & valid[:, None]
    used = jnp.any(known, axis=1)
    logits = jnp.where(valid[:, None, None, None], logits.astype(jnp.float32), 0.0)
    bad = jnp.any(valid[:, None, None] & ((label < 0) | (label >= n)))

    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    log_p = logits - normaliser
    # The foreground one-hot is zero where the structure is unlabelled: those pixels fall to the merged background.
    foreground = (label[..., None] == jnp.arange(1, n)) & known[:, None, None, :]
    in_background = jnp.concatenate([jnp.ones((batch, 1), bool), ~known], axis=1)[:, None, None, :]
    merged = jax.nn.logsumexp(jnp.where(in_background, logits, _NEGATIVE), axis=-1) - normaliser[..., 0]
    pixel = jnp.where(
        jnp.any(foreground, axis=-1), jnp.sum(jnp.where(foreground, log_p[..., 1:], 0.0), axis=-1), merged
    )
    per_slice = -jnp.mean(pixel, axis=(1, 2))
    cross_entropy = jnp.sum(jnp.where(used, per_slice, 0.0)) / jnp.maximum(jnp.sum(used), 1)

    p = jnp.where(known[:, None, None, :], jnp.exp(log_p[..., 1:]), 0.0)
    size = jnp.sum(foreground, axis=(0, 1, 2), dtype=jnp.float32)
    overlap = jnp.sum(jnp.where(foreground, p, 0.0), axis=(0, 1, 2))
    dice = (2 * overlap + smooth) / (jnp.sum(p, axis=(0, 1, 2)) + size + smooth)
    present = size > 0
    dice_loss = jnp.sum(jnp.where(present, 1 - dice, 0.0)) / jnp.maximum(jnp.sum(present), 1)

    loss = dice_weight * dice_loss + (1 - dice_weight) * cross_entropy
    loss = jnp.where(bad, jnp.nan, loss)

    predicted = (jnp.argmax(logits, axis=-1)[..., None] == jnp.arange(1, n)) & known[:, None, None, :]
    metrics = {
        "loss_dice": dice_loss,
        "loss_cross_entropy": cross_entropy,
        "intersection": jnp.sum(predicted & foreground, axis=(1, 2), dtype=jnp.int32),
        "cardinality": jnp.sum(predicted, axis=(1, 2), dtype=jnp.int32)
        + jnp.sum(foreground, axis=(1, 2), dtype=jnp.int32),
    }
    return loss, jax.lax.stop_gradient(metrics)
