import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import matching as objectives
from morphojax.objectives import targets
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

hard_negatives = checks.compiled(objectives.hard_negatives)
matching = checks.compiled(objectives.matching)

VALID = np.array([True, True, False, True, True, True, False, True])
SUBJECT = jnp.array([5, 2, 7, 2, 9, 5, 3, 2])


def rows(batch=8, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, width)).astype(np.float32)


def pair():
    return rows(seed=0), rows(seed=1)


def reference_matching(true, wrong):
    """Li et al. 2021, eq. 2: cross-entropy of the correct class, over lists of logits."""
    p = [1 / (1 + math.exp(-logit)) for logit in true], [1 / (1 + math.exp(-logit)) for logit in wrong]
    terms = [-math.log(x) for x in p[0]] + [-math.log(1 - x) for x in p[1]]
    return sum(terms) / len(terms)


def reference_padded(positive, negative, valid, exists):
    true = [float(x) for x, v in zip(positive, valid, strict=True) if v]
    return reference_matching(true, [float(negative[i, k]) for i in range(8) for k in range(2) if exists[i, k]])


def of_drawn_pairs(image, table, subject):
    """Matching loss with dot products as logits, for a batch and the negatives drawn from it."""
    drawn = hard_negatives(jax.random.key(3), image, table, -1.0, negatives=targets.distinct(subject))
    for_image = jnp.sum(image * table[drawn.table], axis=1)
    for_table = jnp.sum(image[drawn.image] * table, axis=1)
    wrong, exist = jnp.concatenate([for_image, for_table]), jnp.concatenate([drawn.table_exists, drawn.image_exists])
    return matching(jnp.sum(image * table, axis=1), wrong, negative_valid=exist)[0]


DRAWN = hard_negatives(jax.random.key(3), *pair(), -1.0, negatives=targets.distinct(SUBJECT))


def reference_of_drawn_pairs(image, table, subject):
    assert DRAWN.table_exists.all() and DRAWN.image_exists.all()
    wrong = [np.dot(image[i], table[DRAWN.table[i]]) for i in range(8)]
    wrong += [np.dot(image[DRAWN.image[i]], table[i]) for i in range(8)]
    return reference_matching([np.dot(image[i], table[i]) for i in range(8)], wrong)


CASES = [
    checks.Case(
        "matching",
        lambda positive, negative: matching(positive, negative.ravel())[0],
        lambda positive, negative: reference_matching(positive, negative.ravel()),
        {"positive": rows(width=1)[:, 0], "negative": rows(width=2, seed=1)},
    ),
    checks.Case(
        "matching, padded",
        lambda positive, negative, valid, exists: matching(positive, negative.ravel(), valid, exists.ravel())[0],
        reference_padded,
        {
            "positive": np.where(VALID, rows(width=1)[:, 0], np.nan).astype(np.float32),
            "negative": np.where(VALID[:, None], rows(width=2, seed=1), np.nan).astype(np.float32),
        },
        {"valid": VALID, "exists": VALID[:, None] & np.array([True, False])},
    ),
    checks.Case(
        "matching of drawn pairs",
        of_drawn_pairs,
        reference_of_drawn_pairs,
        dict(zip(("image", "table"), pair(), strict=True)),
        {"subject": np.asarray(SUBJECT)},
        any_order=False,
    ),
]


def test_a_step_raises_the_logit_of_positives_and_lowers_that_of_negatives():
    wrong, right = gradient_of(lambda *x: matching(*x)[0], argnums=(0, 1))(jnp.array([0.3]), jnp.array([0.3]))
    assert wrong < 0 < right


def test_accuracy_by_hand():
    loss, metrics = matching(jnp.array([2.0, -1.0, 0.0]), jnp.array([-3.0, 0.0]))
    assert metrics["accuracy"] == pytest.approx(2 / 5)
    loss, metrics = matching(jnp.array([2.0, np.nan]), jnp.array([5.0]), jnp.array([True, False]))
    assert metrics["accuracy"] == 0.5
    assert loss == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(5))) / 2, rel=1e-6)


def test_large_and_half_precision_logits_are_finite():
    loss, grad = value_and_gradient_of(lambda x: matching(x, -x)[0])(jnp.array([-1e4, 1e4]))
    assert loss == pytest.approx(5e3) and np.all(np.isfinite(grad))
    loss, metrics = matching(jnp.ones(2, jnp.bfloat16), jnp.ones(3, jnp.bfloat16))
    assert loss.dtype == metrics["accuracy"].dtype == jnp.float32 and loss.shape == metrics["accuracy"].shape == ()


def test_metrics_carry_no_gradient():
    grad = gradient_of(lambda x: matching(x, x)[1]["accuracy"])(jnp.array([1.0, -1.0]))
    assert np.all(np.asarray(grad) == 0)


def test_no_valid_pair_is_zero_with_zero_gradient():
    none = np.zeros(3, bool)
    loss, grad = value_and_gradient_of(lambda x: matching(x, x, none, none)[0])(jnp.full(3, jnp.nan))
    assert loss == 0 and np.all(np.asarray(grad) == 0)


def draws(n, image, table, log_temperature=-1.0, **pairs):
    """n draws of HardNegatives, by fixed keys."""
    keys = jax.random.split(jax.random.key(0), n)
    return jax.vmap(lambda key: hard_negatives(key, image, table, log_temperature, **pairs))(keys)


def test_hard_negatives_are_never_the_row_itself_its_subject_or_padding():
    image, table = (np.where(VALID[:, None], x, np.nan) for x in pair())
    image[:] = image[0]  # the hardest case: all images are equal, and equal to table row 0
    table[0] = image[0]
    drawn = draws(300, image, table, math.log(0.05), valid=VALID, negatives=targets.distinct(SUBJECT))
    for partner, exists in ((drawn.table, drawn.table_exists), (drawn.image, drawn.image_exists)):
        np.testing.assert_array_equal(exists, np.tile(VALID, (300, 1)))
        for i in np.flatnonzero(VALID):
            seen = set(np.unique(partner[:, i]).tolist())
            assert seen <= {j for j in range(8) if VALID[j] and SUBJECT[j] != SUBJECT[i]}
        np.testing.assert_array_equal(np.asarray(partner)[:, ~VALID], np.tile(np.flatnonzero(~VALID), (300, 1)))


def test_hard_negatives_follow_the_softmax_over_negatives():
    image, table = rows(4), rows(4, seed=1)
    negatives = ~np.eye(4, dtype=bool)
    negatives[0, 2] = False  # image 0 may not draw table 2, nor table 2 image 0; the reverse is allowed
    drawn = draws(4000, image, table, math.log(0.7), negatives=negatives)
    for partner, cosine, allowed in (
        (drawn.table, lambda i, j: cosines(image[i], table[j]), negatives),
        (drawn.image, lambda i, j: cosines(image[j], table[i]), negatives.T),
    ):
        for i in range(4):
            weights = [math.exp(cosine(i, j) / 0.7) * allowed[i, j] for j in range(4)]
            expected = np.array(weights) / sum(weights)
            observed = np.bincount(np.asarray(partner)[:, i], minlength=4) / 4000
            np.testing.assert_allclose(observed, expected, atol=4 * 0.5 / math.sqrt(4000))
            hardest, easiest = np.argmax(expected), min(np.flatnonzero(allowed[i]), key=lambda j: expected[j])
            assert observed[hardest] > observed[easiest]


def cosines(u, v):
    return float(u @ v) / math.sqrt(float(u @ u) * float(v @ v))


def test_the_two_directions_are_drawn_independently():
    image = np.ones((8, 2), np.float32)
    drawn = draws(50, image, image)
    assert np.any(np.asarray(drawn.table) != np.asarray(drawn.image))


def test_a_low_temperature_draws_the_hardest_negative():
    image, table = pair()
    drawn = draws(20, image, table, math.log(1e-4))
    similarity = np.array([[cosines(u, v) for v in table] for u in image]) - 9 * np.eye(8)
    np.testing.assert_array_equal(drawn.table, np.tile(similarity.argmax(1), (20, 1)))
    np.testing.assert_array_equal(drawn.image, np.tile(similarity.argmax(0), (20, 1)))


@pytest.mark.parametrize("batch", [1, 8])
def test_without_negatives_nothing_is_drawn(batch):
    image, table = (x[:batch] for x in pair())
    drawn = hard_negatives(jax.random.key(0), image, table, -1.0, negatives=np.eye(batch, dtype=bool))
    assert not drawn.table_exists.any() and not drawn.image_exists.any()
    np.testing.assert_array_equal(drawn.table, np.arange(batch))
    np.testing.assert_array_equal(drawn.image, np.arange(batch))
    true = jnp.full(batch, 0.7)
    loss, grad = value_and_gradient_of(lambda x: matching(true, x, None, drawn.table_exists)[0])(true)
    assert loss == pytest.approx(math.log1p(math.exp(-0.7)), rel=1e-6) and np.all(np.asarray(grad) == 0)


def test_zero_embeddings_are_drawn_evenly():
    drawn = draws(400, np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32))
    assert drawn.table_exists.all()
    assert 120 < np.sum(np.asarray(drawn.table)[:, 0] == 1) < 280
    drawn = hard_negatives(jax.random.key(0), *pair(), -1.0, valid=np.zeros(8, bool))
    assert not drawn.table_exists.any() and not drawn.image_exists.any()


def test_bad_arguments():
    image, table = pair()
    key = jax.random.key(0)
    for other in (table[:5], table[:, :3]):
        with pytest.raises(ValueError, match=r"\[B, P\]"):
            hard_negatives(key, image, other, -1.0)
    with pytest.raises(ValueError, match=r"\[B, P\]"):
        hard_negatives(key, image[:, 0], table[:, 0], -1.0)
    with pytest.raises(ValueError, match="negatives"):
        hard_negatives(key, image, table, -1.0, negatives=np.ones(8, bool))
    with pytest.raises(ValueError, match="valid"):
        hard_negatives(key, image, table, -1.0, valid=np.ones(5, bool))
    with pytest.raises(ValueError, match="log_temperature"):
        hard_negatives(key, image, table, -math.inf)
    with pytest.raises(ValueError, match="logits"):
        matching(jnp.zeros((2, 1)), jnp.zeros(2))
    with pytest.raises(ValueError, match="valid"):
        matching(jnp.zeros(2), jnp.zeros(3), jnp.ones(3, bool))
