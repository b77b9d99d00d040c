"""InfoNCE between the planes of subjects."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import contrastive as objectives
from tests.objectives import checks
from tests.objectives.checks import value_and_gradient_of

between_planes = checks.compiled(objectives.between_planes)

RANDOM = np.random.default_rng(5)
EMBEDDING = RANDOM.normal(size=(8, 3, 4)).astype(np.float32)
PRESENT = RANDOM.random((8, 3)) < 0.75
SUBJECT = np.array([0, 1, 2, 3, 4, 5, 5, 7])
TEMPERATURE = {"log_temperature": np.float32(math.log(0.4))}


def reference(embedding, log_temperature, present=None, subject=None):
    """Tian et al. 2020, the full graph: both directions of every pair of planes, among the subjects
    that have both.
    """
    n, planes, _ = embedding.shape
    present = np.ones((n, planes), bool) if present is None else present
    subject = np.arange(n) if subject is None else subject
    unit = [[z / math.sqrt(sum(float(x) ** 2 for x in z)) for z in planes_of] for planes_of in embedding]
    losses = []
    for p, q in itertools.combinations(range(planes), 2):
        both = [i for i in range(n) if present[i, p] and present[i, q]]
        if len(both) < 2:
            continue
        total = 0.0
        for a, b in ((p, q), (q, p)):
            for i in both:
                scores = {j: float(unit[i][a] @ unit[j][b]) / math.exp(float(log_temperature)) for j in both}
                negatives = [j for j in both if j == i or subject[j] != subject[i]]
                total -= scores[i] - math.log(sum(math.exp(scores[j]) for j in negatives))
        losses.append(total / (2 * len(both)))
    return sum(losses) / len(losses) if losses else 0.0


def loss(embedding, log_temperature, present=None, subject=None):
    present = jnp.ones(embedding.shape[:2], bool) if present is None else present
    negatives = None if subject is None else subject[:, None] != subject[None]
    return between_planes(embedding, present, log_temperature, negatives)[0]


CASES = [
    checks.Case("planes, none missing", loss, reference, {"embedding": EMBEDDING}, {}, TEMPERATURE),
    checks.Case("planes, some missing", loss, reference, {"embedding": EMBEDDING}, {"present": PRESENT}, TEMPERATURE),
    checks.Case(
        "planes, a subject twice", loss, reference, {"embedding": EMBEDDING}, {"subject": SUBJECT}, TEMPERATURE
    ),
    checks.Case(
        "planes, two of them",
        loss,
        reference,
        {"embedding": EMBEDDING[:, :2]},
        {"present": PRESENT[:, :2]},
        TEMPERATURE,
    ),
]


def test_a_step_raises_the_similarity_of_the_planes_of_a_subject():
    embedding = jnp.array([[[1.0, 0.2], [0.2, 1.0]], [[-1.0, 0.3], [0.1, -1.0]]])
    value, grads = value_and_gradient_of(lambda z: loss(z, -1.0))(embedding)
    assert loss(embedding - 0.05 * grads, -1.0) < value

    def margin(z):
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        return float((z[:, 0] * z[:, 1]).sum(-1).mean() - (z[::-1, 0] * z[:, 1]).sum(-1).mean())

    assert margin(embedding - 0.05 * grads) > margin(embedding)


def test_a_missing_plane_has_no_influence():
    present = jnp.asarray(PRESENT)
    bad = jnp.where(present[..., None], EMBEDDING, jnp.nan)
    value, grads = value_and_gradient_of(lambda z: loss(z, -1.0, present))(bad)
    assert float(value) == pytest.approx(float(loss(jnp.where(present[..., None], EMBEDDING, 7.0), -1.0, present)))
    assert np.isfinite(np.asarray(grads)).all() and not np.asarray(grads)[~PRESENT].any()


def test_planes_without_a_common_subject_give_zero():
    present = jnp.array([[True, False], [False, True], [True, False]])
    value, grads = value_and_gradient_of(lambda z: loss(z, -1.0, present))(jnp.asarray(EMBEDDING[:3, :2]))
    assert value == 0 and not np.asarray(grads).any()


def test_equal_planes_have_perfect_retrieval():
    same = jnp.broadcast_to(jnp.eye(4)[:, None], (4, 3, 4))
    assert between_planes(same, jnp.ones((4, 3), bool), -2.0)[1]["top1"] == 1


def test_one_plane_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="two planes"):
        between_planes(jnp.ones((3, 1, 2)), jnp.ones((3, 1), bool), 0.0)
    with pytest.raises(ValueError, match=r"present \[B, V\]"):
        between_planes(jnp.ones((3, 2, 2)), jnp.ones((3,), bool), 0.0)
