"""Losses for unlabelled images: volume consistency, entropy minimisation, pseudo-labels.

Pure functions on stacks [B, K, H, W, ...], used in addition to a supervised loss on labelled
slices. `slice_mask` bool [B, K] is False for slices that pad a stack. `voxel_ml` float [B] is the
volume of a voxel. Class 0 of C = S + 1 is the background. Labels, table volumes and metrics carry
no gradient.
"""

import math

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import masked_mean, valid_rows

Array = jax.Array


def volumes(probabilities: Array, slice_mask: Array, voxel_ml: Array, valid: Array | None = None) -> Array:
    """Expected volumes float32 [B, S] in ml: sum of the probabilities times the voxel volume.

    The soft size of Kervadec et al., "Constrained-CNN losses for weakly supervised segmentation",
    Medical Image Analysis 2019 (arXiv:1805.04628), summed over a stack.

    Args:
      probabilities: [B, K, H, W, S], without the background; any float type, summed in float32.
      slice_mask: bool [B, K]; False for slices to ignore (their values may be NaN).
      voxel_ml: [B], volume of a voxel in ml.
      valid: bool [B]; False for padding, whose volumes are 0. None: all valid.

    Raises:
      ValueError: the shapes do not fit.
    """
    _check_stacks(probabilities, slice_mask, voxel_ml)
    valid = valid_rows(valid, len(probabilities))
    counted = (slice_mask.astype(bool) & valid[:, None])[:, :, None, None, None]
    sizes = jnp.sum(jnp.where(counted, probabilities.astype(jnp.float32), 0.0), axis=(1, 2, 3))
    return sizes * jnp.where(valid, voxel_ml.astype(jnp.float32), 0.0)[:, None]


def consistency(
    predicted: Array, table: Array, valid: Array | None = None, floor_ml: float = 1.0, huber_delta: float = math.inf
) -> tuple[Array, dict[str, Array]]:
    """The mean of h(log(predicted + floor) - log(table + floor)) over the known volumes.

    A penalty on the size of a mask, as in Kervadec et al. 2019 (arXiv:1805.04628), with the table's
    value instead of bounds.
    - On the logarithm an error of 10 % has the same weight for every structure.
    - The floor keeps the gradient of an empty mask finite and non-zero, and reduces the weight of
      errors that are smaller than it.
    - h(e) is e^2 up to |e| = huber_delta and 2 huber_delta |e| - huber_delta^2 beyond (Huber,
      "Robust estimation of a location parameter", 1964). Without it, a nearly empty mask would
      dominate the gradient of a step.

    Args:
      predicted: [B, S] in ml, from `volumes`.
      table: [B, S] in ml, NaN where unknown; an unknown entry has no influence and gets no
        gradient.
      valid: bool [B]; False for padding. None: all valid.
      floor_ml: in ml, above 0.
      huber_delta: above 0; math.inf: all errors are squared.

    Returns:
      loss: float32 scalar (0 where no volume is known).
      metrics: `volume_error`, the mean of |predicted - table| / max(table, floor) over the known
        volumes; `volume_known`, the fraction of the volumes of valid rows that are known.

    Raises:
      ValueError: the shapes do not fit, or floor_ml or huber_delta is not a positive number.
    """
    if predicted.ndim != 2 or table.shape != predicted.shape:
        raise ValueError(f"predicted and table must both be [B, S], got {predicted.shape} and {table.shape}")
    if not 0 < floor_ml < math.inf:
        raise ValueError(f"floor_ml must be a positive number of ml, got {floor_ml}")
    if not huber_delta > 0:
        raise ValueError(f"huber_delta must be a positive number or infinity, got {huber_delta}")
    valid = jnp.broadcast_to(valid_rows(valid, len(predicted))[:, None], predicted.shape)
    known = valid & jnp.isfinite(table)
    predicted = jnp.where(known, predicted.astype(jnp.float32), 0.0)
    table = jax.lax.stop_gradient(jnp.where(known, table.astype(jnp.float32), 0.0))
    error = jnp.abs(jnp.log(predicted + floor_ml) - jnp.log(table + floor_ml))
    inner = jnp.minimum(error, huber_delta)
    loss = masked_mean(inner * (2 * error - inner), known)
    metrics = {
        "volume_error": masked_mean(jnp.abs(predicted - table) / jnp.maximum(table, floor_ml), known),
        "volume_known": masked_mean(known.astype(jnp.float32), valid),
    }
    return loss, jax.lax.stop_gradient(metrics)


def entropy(logits: Array, mask: Array) -> tuple[Array, dict[str, Array]]:
    """The mean entropy of the pixels, in nats: 0 (certain) to log C.

    The regulariser of Grandvalet and Bengio, "Semi-supervised learning by entropy minimization",
    NeurIPS 2004 (without their supervised likelihood).

    Args:
      logits: [..., C], at least two classes; any float type, computed in float32.
      mask: bool, over the first axes of logits (slice_mask [B, K] for [B, K, H, W, C]). Pixels
        where it is False have no influence and get no gradient.

    Returns:
      loss: float32 scalar (0 where the mask is False throughout).
      metrics: `confidence`, the mean probability of the most probable class.

    Raises:
      ValueError: the shapes do not fit, or there are fewer than two classes.
    """
    pixels = logits.shape[:-1]
    if not 0 < mask.ndim <= len(pixels) or mask.shape != pixels[: mask.ndim]:
        raise ValueError(f"mask {mask.shape} must have the first axes of the logits {logits.shape}")
    if logits.shape[-1] < 2:
        raise ValueError(f"logits must be [..., C] with at least two classes, got {logits.shape}")
    mask = jnp.broadcast_to(mask.astype(bool).reshape(*mask.shape, *[1] * (len(pixels) - mask.ndim)), pixels)
    log_p = jax.nn.log_softmax(jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0))
    p = jnp.exp(log_p)
    loss = masked_mean(-jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1), mask)
    return loss, jax.lax.stop_gradient({"confidence": masked_mean(jnp.max(p, axis=-1), mask)})


def pseudo_labels(
    probabilities: Array,
    slice_mask: Array,
    voxel_ml: Array,
    table: Array,
    tolerance: float,
    confidence: float,
    valid: Array | None = None,
) -> tuple[Array, Array, dict[str, Array]]:
    """Pseudo-labels of stacks, and the weights of their pixels.

    Confident pixels of stacks whose predicted volumes agree with the table have weight 1. A
    stack is kept if |volume - table| <= tolerance * table for every known volume, and at least one
    is known. Volumes are those of the most probable classes. Pseudo-labels: Lee 2013
    ("Pseudo-label", ICML workshop); confidence threshold: FixMatch (Sohn et al. 2020,
    arXiv:2001.07685).

    Args:
      probabilities: [B, K, H, W, C], class 0 the background.
      slice_mask: bool [B, K]. voxel_ml: [B] in ml.
      table: [B, C - 1] in ml, NaN where unknown.
      tolerance: relative error, 0 or more (0.1 is 10 %).
      confidence: in [0, 1], the lowest probability of a pseudo-label.
      valid: bool [B]; False for padding. None: all valid.

    Returns:
      labels: int32 [B, K, H, W], the most probable class; background in padding.
      weight: float32 [B, K, H, W], 1 for the confident pixels of the stacks that are kept, 0
        elsewhere.
      metrics: `pseudo_kept`, the fraction of valid stacks that are kept; `pseudo_pixels`, the
        fraction of their pixels with weight 1.

    Raises:
      ValueError: the shapes do not fit, or tolerance or confidence lies outside its range.
    """
    _check_stacks(probabilities, slice_mask, voxel_ml)
    structures = probabilities.shape[-1] - 1
    if table.shape != (len(probabilities), structures):
        raise ValueError(f"table must be [B, C - 1] = [{len(probabilities)}, {structures}], got {table.shape}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be finite and 0 or more, got {tolerance}")
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence must lie in [0, 1], got {confidence}")
    slice_mask = slice_mask.astype(bool) & valid_rows(valid, len(probabilities))[:, None]
    in_stack = slice_mask[:, :, None, None]
    p = jnp.where(in_stack[..., None], probabilities.astype(jnp.float32), 0.0)
    labels = jnp.argmax(p, axis=-1).astype(jnp.int32)
    hard = volumes(labels[..., None] == jnp.arange(1, structures + 1), slice_mask, voxel_ml)
    known = jnp.isfinite(table)
    agrees = jnp.all(~known | (jnp.abs(hard - table) <= tolerance * table), axis=1)
    any_slice = jnp.any(slice_mask, axis=1)
    kept = agrees & jnp.any(known, axis=1) & any_slice
    weight = (kept[:, None, None, None] & in_stack & (jnp.max(p, axis=-1) >= confidence)).astype(jnp.float32)
    metrics = {
        "pseudo_kept": masked_mean(kept.astype(jnp.float32), any_slice),
        "pseudo_pixels": masked_mean(weight, jnp.broadcast_to(in_stack, weight.shape)),
    }
    return labels, weight, metrics


def pseudo_cross_entropy(logits: Array, labels: Array, weight: Array) -> tuple[Array, dict[str, Array]]:
    """The weighted mean of the cross-entropy with pseudo-labels: sum w CE / sum w.

    Args:
      logits: [..., C]; any float type, computed in float32.
      labels: integer [...], class indices.
      weight: [...]; pixels of weight 0 (or NaN) have no influence and get no gradient.

    Returns:
      loss: float32 scalar (0 where all weights are 0). NaN if a pixel with weight has a label
        outside 0..C-1.
      metrics: `pseudo_agreement`, the weighted fraction of pixels whose most probable class is the
        label.

    Raises:
      ValueError: the shapes do not fit.
    """
    if labels.shape != logits.shape[:-1] or weight.shape != labels.shape:
        raise ValueError(
            f"labels {labels.shape} and weight {weight.shape} must have the shape of the logits "
            f"{logits.shape} without the last axis"
        )
    classes = logits.shape[-1]
    used = weight > 0
    weight = jax.lax.stop_gradient(jnp.where(used, weight.astype(jnp.float32), 0.0))
    total = jnp.sum(weight)
    log_p = jax.nn.log_softmax(jnp.where(used[..., None], logits.astype(jnp.float32), 0.0))
    likelihood = jnp.sum(jnp.where(labels[..., None] == jnp.arange(classes), log_p, 0.0), axis=-1)
    outside = jnp.any(used & ((labels < 0) | (labels >= classes)))
    loss = -jnp.sum(weight * likelihood) / jnp.where(total > 0, total, 1.0)
    agreement = jnp.sum(jnp.where(jnp.argmax(log_p, axis=-1) == labels, weight, 0.0)) / jnp.where(total > 0, total, 1.0)
    return jnp.where(outside, jnp.nan, loss), jax.lax.stop_gradient({"pseudo_agreement": agreement})


def _check_stacks(probabilities: Array, slice_mask: Array, voxel_ml: Array) -> None:
    if probabilities.ndim != 5 or slice_mask.shape != probabilities.shape[:2]:
        raise ValueError(
            f"probabilities must be [B, K, H, W, classes] and slice_mask [B, K], got {probabilities.shape} and {slice_mask.shape}"
        )
    if voxel_ml.shape != probabilities.shape[:1]:
        raise ValueError(f"voxel_ml must be [B] = [{len(probabilities)}], got {voxel_ml.shape}")
