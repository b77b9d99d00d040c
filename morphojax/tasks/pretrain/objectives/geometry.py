"""Measures of the embeddings of positive pairs on the unit sphere, for validation alone."""

from collections.abc import Mapping

import jax
import numpy as np

from morphojax.objectives import embeddings

MOST_PAIRS = 2048  # the measures are quadratic in the number of pairs, and the rank cubic


def geometry(pair: Mapping[str, jax.Array], valid: jax.Array) -> dict[str, float]:
    """`alignment`, `uniformity_<name>` and `effective_rank_<name>` of the two embeddings of `pair`.

    Wang and Isola 2020 (arXiv:2005.10242); Roy and Vetterli 2007. Of more than MOST_PAIRS pairs,
    so many evenly spaced ones count. On the host: not to be called in a compiled function.

    Args:
        pair: name -> [N,P], two of them; row i of both is a positive pair.
        valid: bool [N].
    """
    rows = np.flatnonzero(valid)
    if len(rows) > MOST_PAIRS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_PAIRS).round().astype(int)]
    chosen = {name: x[rows] for name, x in pair.items()}
    first, second = chosen.values()
    found = {"alignment": embeddings.alignment(first, second)}
    found |= {f"uniformity_{name}": embeddings.uniformity(x) for name, x in chosen.items()}
    unit = {name: embeddings.l2_normalise(x.astype(np.float32)) for name, x in chosen.items()}
    found |= {f"effective_rank_{name}": embeddings.effective_rank(x) for name, x in unit.items()}
    return {name: float(value) for name, value in found.items()}
