"""How a pretraining goes, looked at now and then: which objective pulls the encoder where, which columns drive it, and how much of the
space the features use."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morphojax.objectives.embeddings import effective_rank

PyTree = Any
# (parameters of the encoder, gate float [B,F]) -> ({objective: weighted loss}, features by tower [B,D])
Losses = Callable[[PyTree, jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]]


def measure(
    losses: Losses, encoder: PyTree, gate: jax.Array, columns: Sequence[str], valid: jax.Array
) -> dict[str, jax.Array]:
    """Scalars by name.

    `grad_norm/<objective>`: norm of the gradient of its weighted loss on the image encoder; `grad_cosine/<a>_<b>`: cosine of two of
    these. `column/<name>`: share of a table column in what drives training: the mean over subjects of |d loss / d gate|, the gate
    being what withholds the column from the table tower (so: how much the loss would change were a little of it taken away,
    to first order), divided by the sum over columns. `rank_<tower>`: effective rank of the tower's features over the batch,
    RankMe (Garrido et al. 2023, arXiv:2210.02885).

    Args:
        gate: [B,F], zeros: nothing withheld. F = 0, or a loss without rows: no `column/`.
        valid: bool [B].
    """

    def vector(encoder: PyTree, gate: jax.Array) -> tuple[jax.Array, Any]:
        by_name, features = losses(encoder, gate)
        names[:] = by_name
        return jnp.stack(list(by_name.values())), features

    names: list[str] = []
    values, pull, features = jax.vjp(vector, encoder, gate, has_aux=True)
    # One after the other: side by side they would hold the activations of as many backward passes.
    gradients, gates = jax.lax.map(lambda unit: pull(unit), jnp.eye(len(values)))
    flat = jnp.concatenate([g.reshape(len(values), -1) for g in jax.tree.leaves(gradients)], axis=1)
    norms = jnp.linalg.norm(flat, axis=1)
    unit = flat / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)[:, None]
    cosines = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
    out = {f"grad_norm/{name}": norms[i] for i, name in enumerate(names)}
    out |= {
        f"grad_cosine/{names[i]}_{names[j]}": cosines[i, j]
        for i, j in zip(*np.triu_indices(len(names), 1), strict=True)
    }
    if columns:
        drive = jnp.mean(jnp.abs(gates.sum(0)), axis=0)
        share = drive / jnp.maximum(drive.sum(), jnp.finfo(jnp.float32).tiny)
        out |= {f"column/{name}": share[i] for i, name in enumerate(columns)}
    return out | {f"rank_{tower}": effective_rank(x, valid) for tower, x in features.items()}
