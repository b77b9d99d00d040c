"""Training dynamics, measured every `dynamics_every` steps.

Pretraining: the gradient of each objective on the encoder, the influence of each table column, the
rank of the features. Fine-tuning: how far each depth level has moved from the start of the run.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from morphojax.models.features import Features
from morphojax.objectives.embeddings import effective_rank, linear_cka
from morphojax.train.optimizer import Levels, names_of, submodule

PyTree = Any
# (parameters of the encoder, gate float [B,F]) -> ({objective: weighted loss}, features by tower
# [B,D])
Losses = Callable[[PyTree, jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]]


def measure(
    losses: Losses, encoder: PyTree, gate: jax.Array, columns: Sequence[str], valid: jax.Array
) -> dict[str, jax.Array]:
    """Scalars by name.

    `grad_norm/<objective>`: norm of the gradient of its weighted loss on the image encoder.
    `grad_cosine/<a>_<b>`: cosine of two of these gradients. `column/<name>`: influence of a table
    column on training, as a fraction of all columns: the mean over subjects of |d loss / d gate|,
    where the gate masks the column for the table encoder (to first order: how much the loss would
    change if a little of the column were masked). `rank_<tower>`: effective rank of the tower's
    features over the batch, RankMe (Garrido et al. 2023, arXiv:2210.02885).

    Args:
        gate: [B,F], zeros: nothing is masked. With F = 0, or a loss without rows, there is no
            `column/`.
        valid: bool [B].
    """

    def vector(encoder: PyTree, gate: jax.Array) -> tuple[jax.Array, Any]:
        by_name, features = losses(encoder, gate)
        names[:] = by_name
        return jnp.stack(list(by_name.values())), features

    names: list[str] = []
    values, pullback, features = jax.vjp(vector, encoder, gate, has_aux=True)
    pulled: list[Any] = []
    for unit in jnp.eye(len(values)):
        # One backward pass after the other, to hold the activations of one at a time. Not a loop of
        # XLA's: on the CPU a convolution inside such a loop takes twenty times as long.
        unit, pulled = jax.lax.optimization_barrier((unit, pulled))
        pulled.append(pullback(unit))
    encoder_gradients, gate_gradients = jax.tree.map(lambda *gradients: jnp.stack(gradients), *pulled)
    scalars = _compare_gradients(names, encoder_gradients)
    if columns:
        influence = jnp.mean(jnp.abs(gate_gradients.sum(0)), axis=0)
        fraction = influence / jnp.maximum(influence.sum(), jnp.finfo(jnp.float32).tiny)
        scalars |= {f"column/{name}": fraction[i] for i, name in enumerate(columns)}
    return scalars | {f"rank_{tower}": effective_rank(x, valid) for tower, x in features.items()}


def _compare_gradients(names: Sequence[str], gradients: PyTree) -> dict[str, jax.Array]:
    """Norms and cosines of the gradients of several objectives, stacked along the first axis of
    every leaf.
    """
    flat = jnp.concatenate([g.reshape(len(names), -1) for g in jax.tree.leaves(gradients)], axis=1)
    lengths = jnp.linalg.norm(flat, axis=1)
    unit = flat / jnp.maximum(lengths, jnp.finfo(jnp.float32).tiny)[:, None]
    cosines = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
    pairs = list(itertools.combinations(range(len(names)), 2))
    scalars = {f"grad_norm/{name}": lengths[i] for i, name in enumerate(names)}
    return scalars | {f"grad_cosine/{names[i]}_{names[j]}": cosines[i, j] for i, j in pairs}


def norms(tree: PyTree, levels: Levels) -> dict[str, jax.Array]:
    """The Euclidean norm of all arrays of each depth level, by `<module>/<level>`, in the order of
    the tree.

    Args:
        tree: parameters or gradients of a model.
        levels: of each module that has levels (encoder, decoder), its submodules with their level.
            A submodule without a level stands by its own name (`encoder/norm`), and so does a
            module without levels (`head`).
    """
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = names_of(path)
        name = names[0]
        if name in levels and len(names) > 1:
            name = f"{name}/{levels[name].get(submodule(names), submodule(names))}"
        squares[name] = squares.get(name, jnp.float32(0.0)) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return {name: jnp.sqrt(square) for name, square in squares.items()}


def drift(initial: PyTree, params: PyTree, before: Features, now: Features, levels: Levels) -> dict[str, jax.Array]:
    """The distance of weights and features from the start of the run, in scalars by name.

    `distance/<module>/<level>`: |w - w0| / |w0| of the parameters of every level (`norms`); NaN
    where w0 is all zeros.
    `cka/level<i>` and `cka/pooled`: `linear_cka` of the encoder's features at the start and now, on
    the same images: for every map of the pyramid (1 is the finest) and for the pooled features.
    Every pixel of a map is an example. Pooled features are few, one per image, which biases their
    CKA towards 1: compare it only between runs of the same width and images.
    """
    start, moved = norms(initial, levels), norms(jax.tree.map(jnp.subtract, params, initial), levels)
    out = {f"distance/{name}": jnp.where(start[name] > 0, moved[name] / start[name], jnp.nan) for name in start}
    for level, (a, b) in enumerate(zip(before.pyramid, now.pyramid, strict=True), start=1):
        out[f"cka/level{level}"] = linear_cka(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    return out | {"cka/pooled": linear_cka(before.pooled, now.pooled)}
