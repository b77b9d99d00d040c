"""Attribution to table columns: integrated gradients, permutation importance, groups replaced.

A row is a vector of D encoded inputs (`inference.similarity`); a feature is a column or a group of
columns, given as the positions of its inputs in D. Results are by subject, for bootstrap intervals.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from morphojax.inference.similarity import SimilarityError

Features = Mapping[str, np.ndarray]  # name -> positions of its inputs
Measures = dict[str, np.ndarray]  # name of a measure -> [n]
TOLERANCE = 2e-3  # of completeness, in units of the similarity
AT_ONCE = 512  # rows that are encoded at once


def integrated_gradients(
    function: Callable[..., jax.Array], rows: np.ndarray, baseline: np.ndarray, anchors: np.ndarray, steps: int
) -> tuple[np.ndarray, float]:
    """Attributions [n,D], and the largest error of completeness over the rows.

    Sundararajan et al. 2017 (arXiv:1703.01365, eq. 1 and 3): the integral of the gradient along the
    straight line from the baseline to the row, by the midpoint rule, times their difference.

    Args:
        function: (rows [n,D], anchors) -> [n]; value i depends on row i and anchor i alone.
        anchors: [n,...], what else the function depends on.

    Raises SimilarityError, naming --steps, where the sum over a row's inputs differs by more than
    TOLERANCE from function(row) - function(baseline).
    """
    gradient = jax.jit(jax.grad(lambda x, z: function(x, z).sum()))
    difference = rows - baseline
    total = np.zeros(rows.shape)
    for step in range(steps):
        total += np.asarray(gradient(baseline + difference * np.float32((step + 0.5) / steps), anchors))
    attributions = difference * total / steps
    ends = (np.asarray(function(x, anchors), float) for x in (rows, np.broadcast_to(baseline, rows.shape)))
    rise = np.subtract(*ends)
    error = float(np.abs(attributions.sum(axis=1) - rise).max())
    if not error <= TOLERANCE:
        raise SimilarityError(
            f"--steps={steps}: integrated gradients miss completeness by {error:.2g} for a subject, "
            f"more than {TOLERANCE:g}; give more steps"
        )
    return attributions, error


def by_feature(attributions: Mapping[str, np.ndarray], features: Features) -> dict[str, Measures]:
    """The attributions [n,D] of each measure, summed over the inputs of each feature."""
    return {
        name: {measure: values[:, where].sum(axis=1) for measure, values in attributions.items()}
        for name, where in features.items()
    }


def other_images(images: np.ndarray) -> np.ndarray:
    """[n,E]: for every subject the mean embedding of the images of the others."""
    return (images.sum(axis=0) - images) / (len(images) - 1)


def measures(similarity: np.ndarray, batch_size: int) -> Measures:
    """How well each image finds its own row, by subject.

    similarity: [n,n], of image i with row j; row i is its own.

    top1_split: 1 where the own row is more similar than every other row of the split, else 0.
    top1_batch: the probability of that in a random batch of `batch_size` subjects of the split (all
        of them where it has fewer). A tie counts as a miss in both.
    own_minus_others: similarity with the own row, minus the mean over the other rows.
    """
    n = len(similarity)
    own = np.diag(similarity)
    others = similarity[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    better = (others >= own[:, None]).sum(axis=1)
    return {
        "top1_split": (better == 0).astype(float),
        "top1_batch": _none_drawn(better, n - 1, min(batch_size, n) - 1),
        "own_minus_others": own - others.mean(axis=1),
    }


def _none_drawn(marked: np.ndarray, total: int, drawn: int) -> np.ndarray:
    """The probability that none of the `marked` of `total` is among `drawn` without replacement
    (hypergeometric).
    """
    left = total - marked
    possible = left >= drawn
    left = np.maximum(left, drawn)
    log = gammaln(left + 1) - gammaln(left - drawn + 1) - gammaln(total + 1) + gammaln(total - drawn + 1)
    return np.where(possible, np.exp(log), 0.0)


class Retrieval:
    """The measures of n subjects, with their rows as they are and with changed rows.

    embed_rows: [B,D] -> [B,E] of unit length. images: embeddings [n,E]. rows: [n,D].
    """

    def __init__(self, embed_rows: Callable, images: np.ndarray, rows: np.ndarray, batch_size: int):
        self._embed_rows, self._images, self.rows, self._batch_size = embed_rows, images, rows, batch_size
        self.intact = self.of(rows)

    def of(self, rows: np.ndarray) -> Measures:
        return measures(self._images @ in_batches(self._embed_rows, rows, AT_ONCE).T, self._batch_size)

    def permutation(self, features: Features, permutations: int, seed: int) -> dict[str, Measures]:
        """The fall of each measure when a feature's inputs, its missing flags too, move between the
        subjects: the mean over permutations, the same for every feature.
        """
        random = np.random.default_rng(seed)
        orders = [random.permutation(len(self.rows)) for _ in range(permutations)]
        falls = {}
        for name, where in features.items():
            each = [self._fall(where, self.rows[np.ix_(order, where)]) for order in orders]
            falls[name] = {measure: np.mean([e[measure] for e in each], axis=0) for measure in self.intact}
        return falls

    def replaced(self, features: Features, baseline: np.ndarray) -> dict[str, Measures]:
        """The fall of each measure when every row has a feature's inputs from the baseline."""
        return {name: self._fall(where, baseline[where]) for name, where in features.items()}

    def _fall(self, where: np.ndarray, inputs: np.ndarray) -> Measures:
        rows = self.rows.copy()
        rows[:, where] = inputs
        changed = self.of(rows)
        return {name: values - changed[name] for name, values in self.intact.items()}


def in_batches(function: Callable, rows: np.ndarray, size: int) -> np.ndarray:
    """function(rows), computed for at most `size` rows at once, padded so that it compiles once."""
    size = min(size, len(rows))
    padded = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % size, axis=0)])
    parts = [np.asarray(function(jnp.asarray(padded[i : i + size]))) for i in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(rows)]
