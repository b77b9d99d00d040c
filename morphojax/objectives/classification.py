"""Which class an example is of."""

import jax
import jax.numpy as jnp
import optax

from morphojax.objectives.embeddings import masked_mean, valid_rows

Array = jax.Array


def cross_entropy(logits: Array, label: Array, valid: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """-log softmax(logits)[label], the mean over the rows whose label is known.

    Args:
      logits: [B, C], any float type, computed in float32.
      label: int [B], 0..C-1; anything else is unknown and counts nowhere.
      valid: bool [B]; rows that are False are padding. None: all valid.

    Returns:
      loss: float32 scalar (0 where no label is known).
      metrics: float32 scalars without gradient: `accuracy`; `balanced_accuracy`, the mean over the classes that are there
        of the share of their members that are told right.

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
    right = (jnp.argmax(logits, axis=1) == label) & known
    members = jax.nn.one_hot(label, classes) * known[:, None]
    of_class = (members * right[:, None]).sum(0) / jnp.maximum(members.sum(0), 1)
    metrics = {
        "accuracy": masked_mean(right.astype(jnp.float32), known),
        "balanced_accuracy": masked_mean(of_class, members.sum(0) > 0),
    }
    return loss, jax.lax.stop_gradient(metrics)
