"""How a training goes, looked at now and then. Of a pretraining: which objective pulls the encoder where, which columns drive it, and
how much of the space the features use. Of a fine-tuning: how far every depth has gone from where the run began."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morphojax.models.features import Features
from morphojax.objectives.embeddings import effective_rank, linear_cka
from morphojax.train.optimizer import LAST, layer

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
    pulled: list[Any] = []
    for unit in jnp.eye(len(values)):
        # One after the other: side by side they would hold the activations of as many backward passes. Not as a loop of XLA's, whose
        # CPU takes twenty times as long for a convolution within one.
        unit, pulled = jax.lax.optimization_barrier((unit, pulled))
        pulled.append(pull(unit))
    gradients, gates = jax.tree.map(lambda *pulls: jnp.stack(pulls), *pulled)
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


def norms(tree: PyTree) -> dict[str, jax.Array]:
    """The Euclidean norm of all arrays of a depth of the network, by the name of that depth, in the order of the tree.

    tree: parameters or gradients of a model. Depths are read off the names, as `optimizer.layer_scales` does: `encoder/stem`,
    `encoder/stage1` (or `encoder/block1`), `decoder/level0`; a module without depths is one by itself (`head`).
    """
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [str(entry.key) for entry in path]
        name = _depth(names[0], layer(names) if len(names) > 1 else "")
        squares[name] = squares.get(name, jnp.float32(0.0)) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return {name: jnp.sqrt(square) for name, square in squares.items()}


def _depth(module: str, name: str) -> str:
    if module not in ("encoder", "decoder"):
        return module
    number = re.match(r"[a-z]+\d+", name)
    if number:
        return f"{module}/{number.group()}"
    return f"{module}/{name}" if module == "decoder" or name in LAST else f"{module}/stem"


def drift(initial: PyTree, params: PyTree, before: Features, now: Features) -> dict[str, jax.Array]:
    """How far a run has gone from its first step, in scalars by name.

    `distance/<depth>`: |w - w0| / |w0| of the parameters of every depth (`norms`); NaN where w0 is all zeros.
    `cka/level<i>` and `cka/pooled`: `linear_cka` of the encoder's features then and now on the same images, for every map of the
    pyramid (1 is the finest) and for the pooled features. Every place of a map is an example: these are the features that the
    decoder reads, and of them there are many. Pooled features are few, one per image, so that their number is biased towards 1:
    compare it between runs of the same width and images alone.
    """
    start, way = norms(initial), norms(jax.tree.map(jnp.subtract, params, initial))
    out = {f"distance/{name}": jnp.where(start[name] > 0, way[name] / start[name], jnp.nan) for name in start}
    for level, (a, b) in enumerate(zip(before.pyramid, now.pyramid, strict=True), start=1):
        out[f"cka/level{level}"] = linear_cka(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    return out | {"cka/pooled": linear_cka(before.pooled, now.pooled)}
