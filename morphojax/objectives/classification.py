"""Classification of examples. Pure functions: logits -> loss, metrics."""

import jax
import jax.numpy as jnp
import optax

from morphojax.objectives.embeddings import masked_mean, valid_rows

Array = jax.Array


def cross_entropy(logits: Array, label: Array, valid: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """The mean of -log softmax(logits)[label] over the rows with a known label.

    Args:
      logits: [B, C], any float type, computed in float32.
      label: int [B], 0..C-1; any other value means unknown, and the row is ignored.
      valid: bool [B]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar (0 where no label is known).
      metrics: float32 scalars without gradient: `accuracy`; `balanced_accuracy`, the recall
        averaged over the classes that occur.

    Raises:
      ValueError: the shapes do not fit, or there are fewer than two classes.
    """
    if logits.ndim != 2 or label.shape != logits.shape[:1] or logits.shape[1] < 2:
        raise ValueError(f"logits must be [B, C >= 2] and label [B], got {logits.shape} and {label.shape}")
    classes = logits.shape[1]
    known = valid_rows(valid, len(label)) & (label >= 0) & (label < classes)
    logits = jnp.where(known[:, None], logits.astype(jnp.float32), 0.0)
    label = jnp.where(known, label, 0)
    loss = masked_mean(optax.softmax_cross_entropy_with_integer_labels(logits, label), known)
    correct = (jnp.argmax(logits, axis=1) == label) & known
    members = jax.nn.one_hot(label, classes) * known[:, None]
    recall = (members * correct[:, None]).sum(0) / jnp.maximum(members.sum(0), 1)
    metrics = {
        "accuracy": masked_mean(correct.astype(jnp.float32), known),
        "balanced_accuracy": masked_mean(recall, members.sum(0) > 0),
    }
    return loss, jax.lax.stop_gradient(metrics)
