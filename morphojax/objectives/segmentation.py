"""Dice and cross-entropy for partially labelled slices. Pure functions: logits -> loss, metrics."""

import jax
import jax.numpy as jnp

Array = jax.Array

_NEGATIVE = float(jnp.finfo(jnp.float32).min)  # value of a masked logit: exp of it is 0, and gradients stay finite


def dice_ce(
    logits: Array,
    label: Array,
    labelled: Array,
    valid: Array | None = None,
    dice_weight: float = 0.5,
    smooth: float = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """dice_weight * (1 - soft Dice) + (1 - dice_weight) * cross-entropy, for partial labels.

    **Unlabelled** structures (`labelled` False) may be anywhere in the background, so their
    probability is added to that of the background: the marginal loss of Shi et al., "Marginal loss
    and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis
    2021. A slice without any labelled structure is left out of every mean.

    **Absent** structures are labelled, but not in the slice (the left ventricle beyond the apex).
    - Dice is computed per structure over the pixels of all slices of the batch that label it:
      (2I + smooth) / (C + smooth). A slice without the structure adds only its false positives.
    - A structure that is absent from the whole batch is left out of the mean over structures. Its
      Dice would be smooth / (C + smooth), whose gradient is largest where the prediction is already
      right (1 / smooth per pixel at C = 0). Cross-entropy still penalises its false positives.
    - `smooth` (in pixels) bounds the gradient of structures of a few pixels; structures usually
      have hundreds.

    Args:
      logits: [B, H, W, n], class 0 is the background; any float type, computed in float32.
      label: integer [B, H, W], class index. A pixel of an unlabelled structure counts as
        background.
      labelled: bool [B, n-1] or [n-1]: structure i (class i + 1) is labelled.
      valid: bool [B]; False for padding, which enters neither loss nor metrics. None: all valid.

    Returns:
      loss: float32 scalar. NaN if a valid slice has a label outside 0..n-1 (jit cannot raise; a NaN
        loss stops the run).
      metrics, without gradient: scalars `loss_dice`, `loss_cross_entropy`; and for the prediction
        (argmax over all classes) `intersection` and `cardinality`, int32 [B, n-1]: pixels in both,
        and the sum of the pixels in each; 0 for unlabelled structures and padding. Summed over any
        number of batches, 2 * intersection / cardinality is the exact Dice.

    Raises:
      ValueError: the shapes do not fit, or dice_weight lies outside [0, 1].
    """
    labelled, valid = _check(logits, label, labelled, valid, dice_weight)
    batch, n = logits.shape[0], logits.shape[-1]
    known = jnp.broadcast_to(labelled, (batch, n - 1)) & valid[:, None]
    logits = jnp.where(valid[:, None, None, None], logits.astype(jnp.float32), 0.0)
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    log_p = logits - normaliser
    # An unlabelled structure is False in `foreground`: its pixels count as background.
    foreground = (label[..., None] == jnp.arange(1, n)) & known[:, None, None, :]

    cross_entropy = _marginal_cross_entropy(logits, normaliser, log_p, foreground, known)
    dice_loss = _dice_loss(log_p, foreground, known, smooth)
    loss = dice_weight * dice_loss + (1 - dice_weight) * cross_entropy
    out_of_range = jnp.any(valid[:, None, None] & ((label < 0) | (label >= n)))
    loss = jnp.where(out_of_range, jnp.nan, loss)

    predicted = (jnp.argmax(logits, axis=-1)[..., None] == jnp.arange(1, n)) & known[:, None, None, :]
    metrics = {
        "loss_dice": dice_loss,
        "loss_cross_entropy": cross_entropy,
        "intersection": jnp.sum(predicted & foreground, axis=(1, 2), dtype=jnp.int32),
        "cardinality": jnp.sum(predicted, axis=(1, 2), dtype=jnp.int32)
        + jnp.sum(foreground, axis=(1, 2), dtype=jnp.int32),
    }
    return loss, jax.lax.stop_gradient(metrics)


def _marginal_cross_entropy(logits: Array, normaliser: Array, log_p: Array, foreground: Array, known: Array) -> Array:
    """Mean over slices with a labelled structure; background includes unlabelled structures."""
    in_background = jnp.concatenate([jnp.ones((len(known), 1), bool), ~known], axis=1)[:, None, None, :]
    background = jax.nn.logsumexp(jnp.where(in_background, logits, _NEGATIVE), axis=-1) - normaliser[..., 0]
    structure = jnp.sum(jnp.where(foreground, log_p[..., 1:], 0.0), axis=-1)
    per_slice = -jnp.mean(jnp.where(jnp.any(foreground, axis=-1), structure, background), axis=(1, 2))
    counted = jnp.any(known, axis=1)
    return jnp.sum(jnp.where(counted, per_slice, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def _dice_loss(log_p: Array, foreground: Array, known: Array, smooth: float) -> Array:
    """The mean of 1 - soft Dice over the structures that occur in the batch."""
    p = jnp.where(known[:, None, None, :], jnp.exp(log_p[..., 1:]), 0.0)
    size = jnp.sum(foreground, axis=(0, 1, 2), dtype=jnp.float32)
    overlap = jnp.sum(jnp.where(foreground, p, 0.0), axis=(0, 1, 2))
    dice = (2 * overlap + smooth) / (jnp.sum(p, axis=(0, 1, 2)) + size + smooth)
    present = size > 0
    return jnp.sum(jnp.where(present, 1 - dice, 0.0)) / jnp.maximum(jnp.sum(present), 1)


def _check(
    logits: Array, label: Array, labelled: Array, valid: Array | None, dice_weight: float
) -> tuple[Array, Array]:
    """`labelled` and `valid` as bool arrays; raises ValueError for what does not fit."""
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
    return labelled, valid
