import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import contrastive
from morphojax.objectives import targets as targets_module
from morphojax.objectives.temperature import check_temperature, clip_log_temperature, inverse_temperature
from tests.objectives import checks
from tests.objectives.checks import gradient_of

info_nce = checks.compiled(contrastive.info_nce)
nt_xent = checks.compiled(contrastive.nt_xent)
sigmoid = checks.compiled(contrastive.sigmoid)
targets = checks.compiled_functions(targets_module)

DIRECTION_WEIGHT = 0.3  # not 0.5, so that swapped directions change the loss
SUBJECT = np.array([5, 2, 7, 2, 9, 5, 3, 2], np.int32)
LABEL = np.array([1, 0, 1, 2, -1, 0, 1, -1], np.int32)  # class 2 has a single member; -1 is unknown
POSITION = np.array([0.05, 0.9, 0.3, 0.1, 0.95, 1.0, 0.6, 0.2], np.float32)
VALID = np.array([True, True, False, True, True, True, False, True])


def rows(batch=8, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, width)).astype(np.float32)


def pair(batch=8, width=4):
    return rows(batch, width, 0), rows(batch, width, 1)


# The papers' equations in loops. weight(i, j) is the weight of j as a positive of anchor i;
# negative(i, j): j enters the denominator of i. The rules below are written from labels,
# independently of `targets`.


def cosine(u, v):
    return float(np.dot(u, v)) / math.sqrt(np.dot(u, u) * np.dot(v, v))


def reference_contrast(anchors, candidates, tau, examples, weight, in_denominator):
    """Khosla et al. 2020, eq. 2, with weights: mean of -1/|P(i)| sum_p log(exp(z_i z_p / tau) /
    sum_a exp(z_i z_a / tau)).
    """
    losses = []
    for i in examples:
        exp = {k: math.exp(cosine(anchors[i], candidates[k]) / tau) for k in examples}
        denominator = sum(exp[k] for k in examples if in_denominator(i, k))
        positives = {p: weight(i, p) for p in examples if weight(i, p) > 0}
        if positives:
            terms = [w * math.log(exp[p] / denominator) for p, w in positives.items()]
            losses.append(-sum(terms) / sum(positives.values()))
    return sum(losses) / len(losses)


def reference_info_nce(
    image, table, log_temperature, weight, negative, examples, image_to_table_weight=DIRECTION_WEIGHT
):
    """Hager et al. 2023, eq. 1 and 2, each direction."""
    tau = math.exp(float(log_temperature))

    def allowed(i, j):
        return i == j or negative(i, j) or weight(i, j) > 0

    forward = reference_contrast(image, table, tau, examples, weight, allowed)
    backward = reference_contrast(table, image, tau, examples, lambda i, j: weight(j, i), lambda i, j: allowed(j, i))
    return image_to_table_weight * forward + (1 - image_to_table_weight) * backward


def reference_nt_xent(first, second, log_temperature, weight, negative, examples):
    """Chen et al. 2020, eq. 1, over the 2N views; a view never meets itself."""
    views, n = np.concatenate([first, second]), len(first)
    indices = [*examples, *(i + n for i in examples)]

    def positive(a, b):
        if a == b:
            return 0.0
        return 1.0 if a % n == b % n and weight(a % n, b % n) == 0 else weight(a % n, b % n)

    def allowed(a, b):
        return a != b and (a % n == b % n or negative(a % n, b % n) or positive(a, b) > 0)

    return reference_contrast(views, views, math.exp(float(log_temperature)), indices, positive, allowed)


def reference_sigmoid(image, table, log_temperature, bias, weight, negative, examples):
    """Zhai et al. 2023, algorithm 1: -1/|B| sum_ij log sigmoid(z_ij (t x_i y_j + b)), over the
    pairs that count.
    """
    total = 0.0
    for i in examples:
        for j in examples:
            logit = cosine(image[i], table[j]) / math.exp(float(log_temperature)) + float(bias)
            if weight(i, j) > 0:
                total -= math.log(1 / (1 + math.exp(-logit)))
            elif i != j and negative(i, j):
                total -= math.log(1 / (1 + math.exp(logit)))
    return total / len(examples)


def own_pair(i, j):
    return float(i == j)


def all_negatives(i, j):
    return True


def same_label(label, only=None):
    """(i, j) -> 1 for the same row, or the same known label (and that label `only`), else 0."""
    return lambda i, j: float(i == j or label[i] == label[j] in ([only] if only is not None else [0, 1, 2]))


def different(rule):
    return lambda i, j: rule(i, j) == 0


def likeness(values):
    return [[math.exp(-np.mean((a - b) ** 2)) for b in values] for a in values]


def among_nearest(similarity, k, threshold):
    def weight(i, j):
        others = sorted((x for x in range(len(similarity)) if x != i), key=lambda x: -similarity[i][x])
        return float(i == j or (j in others[:k] and similarity[i][j] >= threshold))

    return weight


def same_quarter(position):
    quarter = [min(int(4 * p), 3) for p in position]
    return lambda i, j: float(quarter[i] == quarter[j])


def case(objective, name, pairs, rules, examples_twice=(), **fixed):
    """pairs(**fixed) -> positives and negatives of the objective; rules(**fixed) -> weight(i, j),
    negative(i, j) of its loops.
    """
    fast, reference, embeddings, scalars = {
        "info_nce": (
            lambda *a, **k: info_nce(*a, image_to_table_weight=DIRECTION_WEIGHT, **k),
            reference_info_nce,
            ("image", "table"),
            {},
        ),
        "nt_xent": (nt_xent, reference_nt_xent, ("first", "second"), {}),
        "sigmoid": (sigmoid, reference_sigmoid, ("image", "table"), {"bias": np.float32(-1.5)}),
    }[objective]
    scalars = {"log_temperature": np.array(math.log(0.4), np.float32)} | {k: np.array(v) for k, v in scalars.items()}
    learned = dict(zip(embeddings, pair(), strict=True))
    if "valid" in fixed:
        learned = {k: np.where(fixed["valid"][:, None], v, np.nan).astype(np.float32) for k, v in learned.items()}

    def split(arrays):
        arguments = {k: arrays.pop(k) for k in (*embeddings, *scalars)}
        return arguments, arrays.pop("valid", None), arrays

    def loss(**arrays):
        arguments, valid, rest = split(arrays)
        return fast(*arguments.values(), valid=valid, **pairs(**rest))[0]

    def loops(**arrays):
        arguments, valid, rest = split(arrays)
        examples = range(8) if valid is None else np.flatnonzero(valid).tolist()
        return reference(*arguments.values(), *rules(**rest), examples)

    return checks.Case(f"{objective}, {name}", loss, loops, learned, fixed, scalars, examples_twice)


def supervised(label, only=None):
    return {"positives": targets.same_label(label, only)}


def remove_false_negatives(label, only=None):
    return {"negatives": ~targets.same_label(label, only)}


def nearest_rows(values):
    similarity = targets.table_similarity(values, jnp.zeros(values.shape, bool), (1, 1, 1), 0.5)
    return {"positives": targets.nearest(similarity, k=2, threshold=0.25)}


def softened(similarity):
    return {"positives": targets.soft(similarity, 0.3)}


def similar_others(similarity):
    return {"positives": (similarity > 0.7) & ~jnp.eye(8, dtype=bool), "negatives": jnp.zeros((8, 8), bool)}


def rules_of_similar_others(similarity):
    return lambda i, j: float(i != j and similarity[i][j] > 0.7), lambda i, j: False


VALUES = rows(width=3, seed=2)
SIMILARITY = np.random.default_rng(3).random((8, 8)).astype(np.float32)  # not symmetric

CASES = [
    case("info_nce", "plain", lambda: {}, lambda: (own_pair, all_negatives)),
    case("info_nce", "padded", lambda: {}, lambda: (own_pair, all_negatives), valid=VALID),
    case(
        "info_nce",
        "distinct subjects",
        lambda subject: {"negatives": targets.distinct(subject)},
        lambda subject: (own_pair, lambda i, j: subject[i] != subject[j]),
        subject=SUBJECT,
    ),
    case(
        "info_nce",
        "false negatives removed",
        remove_false_negatives,
        lambda label: (own_pair, different(same_label(label))),
        label=LABEL,
    ),
    case(
        "info_nce",
        "false negatives removed of class 1",
        lambda label: remove_false_negatives(label, 1),
        lambda label: (own_pair, different(same_label(label, 1))),
        label=LABEL,
    ),
    case("info_nce", "supervised", supervised, lambda label: (same_label(label), all_negatives), label=LABEL),
    case(
        "info_nce",
        "supervised, padded",
        supervised,
        lambda label: (same_label(label), all_negatives),
        label=LABEL,
        valid=VALID,
    ),
    case(
        "info_nce",
        "supervised by class 1",
        lambda label: supervised(label, 1),
        lambda label: (same_label(label, 1), all_negatives),
        label=LABEL,
    ),
    case(
        "info_nce",
        "nearest rows",
        nearest_rows,
        lambda values: (among_nearest(likeness(values), 2, 0.25), all_negatives),
        values=VALUES,
    ),
    case(
        "info_nce",
        "soft positives",
        softened,
        lambda similarity: (lambda i, j: math.exp(similarity[i][j] / 0.3), all_negatives),
        ("similarity",),
        similarity=SIMILARITY,
    ),
    case(
        "info_nce",
        "soft positives, padded",
        softened,
        lambda similarity: (lambda i, j: math.exp(similarity[i][j] / 0.3), all_negatives),
        ("similarity",),
        similarity=SIMILARITY,
        valid=VALID,
    ),
    case(
        "info_nce",
        "class 1 together, other classes left out",
        lambda label: supervised(label, 1) | remove_false_negatives(label),
        lambda label: (same_label(label, 1), different(same_label(label))),
        label=LABEL,
    ),
    case(
        "info_nce",
        "own pair no positive",
        similar_others,
        rules_of_similar_others,
        ("similarity",),
        similarity=SIMILARITY,
    ),
    case("nt_xent", "plain", lambda: {}, lambda: (own_pair, all_negatives)),
    case("nt_xent", "padded", lambda: {}, lambda: (own_pair, all_negatives), valid=VALID),
    case("nt_xent", "supervised", supervised, lambda label: (same_label(label), all_negatives), label=LABEL),
    case(
        "nt_xent",
        "one level of the heart together",
        lambda position: {"positives": targets.by_partition(position, 4)},
        lambda position: (same_quarter(position), all_negatives),
        position=POSITION,
    ),
    case(
        "nt_xent",
        "one level of the heart left out",
        lambda position: {"negatives": ~targets.by_partition(position, 4)},
        lambda position: (own_pair, different(same_quarter(position))),
        position=POSITION,
        valid=VALID,
    ),
    case(
        "nt_xent",
        "positives without the example itself, soft",
        lambda similarity: {"positives": jnp.where(jnp.eye(8, dtype=bool), 0.0, similarity)},
        lambda similarity: (lambda i, j: 0.0 if i == j else similarity[i][j], all_negatives),
        ("similarity",),
        similarity=SIMILARITY,
    ),
    case("sigmoid", "plain", lambda: {}, lambda: (own_pair, all_negatives)),
    case("sigmoid", "padded", lambda: {}, lambda: (own_pair, all_negatives), valid=VALID),
    case(
        "sigmoid",
        "supervised, distinct subjects",
        lambda label, subject: supervised(label) | {"negatives": targets.distinct(subject)},
        lambda label, subject: (same_label(label), lambda i, j: subject[i] != subject[j]),
        label=LABEL,
        subject=SUBJECT,
        valid=VALID,
    ),
    case(
        "sigmoid", "own pair left out", similar_others, rules_of_similar_others, ("similarity",), similarity=SIMILARITY
    ),
]


class Objective:
    """An objective with fixed settings whose calls of one shape share one compiled program.

    Optional arrays get their defaults as arrays; the cases above test the defaults themselves
    (None).
    """

    def __init__(self, function, *settings):
        def loss(image, table, positives, valid, negatives):
            return function(image, table, *settings, valid=valid, positives=positives, negatives=negatives)

        self.program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def gradients(self, image, table, valid=None, positives=None, negatives=None):
        """(loss, metrics), gradients of image, table and positives."""
        n = len(image)
        positives = np.eye(n) if positives is None else positives
        valid = np.ones(n, bool) if valid is None else valid
        negatives = np.ones((n, n), bool) if negatives is None else negatives
        return self.program(
            jnp.asarray(image), jnp.asarray(table), jnp.asarray(positives, jnp.float32), valid, np.asarray(negatives)
        )

    def __call__(self, *args, **kwargs):
        return self.gradients(*args, **kwargs)[0]


OBJECTIVES = {
    "info_nce": Objective(contrastive.info_nce, -1.0, DIRECTION_WEIGHT),
    "nt_xent": Objective(contrastive.nt_xent, -1.0),
    "sigmoid": Objective(contrastive.sigmoid, -1.0, -1.5),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
@pytest.mark.parametrize("which", ["positives", "negatives"])
def test_a_step_raises_similarity_of_positives_and_lowers_that_of_negatives(objective, which):
    # All images have the same similarity to three orthogonal tables; rows 0 and 1 have the same
    # label. The large fourth component makes the gradients towards the three tables nearly
    # independent.
    image, table = jnp.tile(jnp.array([1.0, 1, 1, 10]), (3, 1)), jnp.eye(3, 4)
    positive = targets.same_label(jnp.array([4, 4, 0]))
    pairs = {"positives": positive} if which == "positives" else {"negatives": ~positive}
    step = -np.asarray(objective.gradients(image, table, **pairs)[1][0])
    for i in range(3):
        for j in range(3):
            if i == j or (which == "positives" and positive[i, j]):
                assert step[i, j] > 0  # towards table j
            elif not positive[i, j]:
                assert step[i, j] < 0
            else:
                assert abs(step[i, j]) < 0.02 * np.abs(step).max()  # neither positive nor negative


@every_objective
def test_two_points(objective):
    image, table = jnp.ones((2, 2)), jnp.eye(2)
    step = -np.asarray(objective.gradients(image, table)[1][0])
    np.testing.assert_array_equal(np.sign(step), [[1, -1], [-1, 1]])
    step = -np.asarray(objective.gradients(table, image)[1][1])
    np.testing.assert_array_equal(np.sign(step), [[1, -1], [-1, 1]])


def test_image_to_table_weight_weighs_the_two_directions():
    image, table = pair()
    _, metrics = OBJECTIVES["info_nce"](image, table)
    forward = reference_info_nce(image, table, -1.0, own_pair, all_negatives, range(8), image_to_table_weight=1.0)
    backward = reference_info_nce(image, table, -1.0, own_pair, all_negatives, range(8), image_to_table_weight=0.0)
    assert abs(forward - backward) > 1e-3
    assert metrics["loss_image_to_table"] == pytest.approx(forward, rel=1e-5)
    assert metrics["loss_table_to_image"] == pytest.approx(backward, rel=1e-5)
    for image_to_table_weight, expected in ((1.0, "loss_image_to_table"), (0.0, "loss_table_to_image")):
        loss, metrics = info_nce(image, table, -1.0, image_to_table_weight)
        assert loss == metrics[expected]


def test_swapping_modalities_swaps_directions():
    image, table = pair()
    similar = targets.soft(SIMILARITY, 0.3)
    negatives = SIMILARITY > 0.3
    loss, a = info_nce(image, table, -1.0, 0.3, positives=similar, negatives=negatives)
    swapped, b = info_nce(table, image, -1.0, 0.7, positives=similar.T, negatives=negatives.T)
    assert loss == pytest.approx(float(swapped), rel=1e-6)
    for name in ("loss", "top1", "top5"):
        assert a[f"{name}_image_to_table"] == pytest.approx(float(b[f"{name}_table_to_image"]), rel=1e-6)


@every_objective
def test_norms_do_not_matter(objective):
    image, table = pair()
    scale = np.linspace(0.5, 3, 8, dtype=np.float32)[:, None]
    assert objective(image * scale, table / scale)[0] == pytest.approx(float(objective(image, table)[0]), rel=1e-5)


def test_equal_embeddings_give_log_batch_size_and_no_retrieval():
    image = np.ones((6, 4), np.float32)
    loss, metrics = info_nce(image, image, math.log(0.1))
    assert loss == pytest.approx(math.log(6), rel=1e-6)
    assert metrics["top1_image_to_table"] == 0  # five ties, which count as errors
    assert metrics["top5_image_to_table"] == 0
    assert metrics["effective_rank_image"] == pytest.approx(1, abs=1e-5)
    assert metrics["embedding_norm_table"] == pytest.approx(2)
    loss, metrics = nt_xent(image, image, math.log(0.1))
    assert loss == pytest.approx(math.log(11), rel=1e-6)  # all views except the anchor
    assert metrics["top5"] == 0


def test_orthonormal_embeddings_have_a_closed_form():
    image, tau = np.eye(5, 7, dtype=np.float32), 0.5
    loss, metrics = info_nce(3 * image, image, math.log(tau))
    assert loss == pytest.approx(math.log1p(4 * math.exp(-1 / tau)), rel=1e-5)
    assert metrics["top1_table_to_image"] == 1
    assert metrics["effective_rank_table"] == pytest.approx(5, rel=1e-5)
    assert metrics["embedding_norm_image"] == pytest.approx(3)
    assert metrics["temperature"] == pytest.approx(tau, rel=1e-6)
    loss, metrics = nt_xent(3 * image, image, math.log(tau))
    assert loss == pytest.approx(math.log1p(8 * math.exp(-1 / tau)), rel=1e-5)
    assert metrics["top1"] == 1 and metrics["embedding_norm_first"] == pytest.approx(3)
    loss, metrics = sigmoid(3 * image, image, math.log(tau), -1.0)
    positives, negatives = math.log1p(math.exp(-(1 / tau - 1))), 4 * math.log1p(math.exp(-1))
    assert metrics["loss_positives"] == pytest.approx(positives, rel=1e-5)
    assert metrics["loss_negatives"] == pytest.approx(negatives, rel=1e-5)
    assert loss == pytest.approx(positives + negatives, rel=1e-5) and metrics["bias"] == -1


def circle(degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1).astype(np.float32)


def test_retrieval_ranks_by_hand():
    table = circle(np.arange(0, 360, 60))  # row i at 60 i degrees
    degrees = np.arange(0, 360, 60) + 5.0  # most similar to the own row, except for two images:
    degrees[0] = 160  # 160, 100, 40, 20, 80, 140 degrees from rows 0..5: the own row has rank 5
    degrees[1] = 190  # 170, 130, 70, 10, 50, 110 degrees: the own row has rank 4, within the top 5
    for _, metrics in (info_nce(circle(degrees), table, 0.0), sigmoid(circle(degrees), table, 0.0, -10.0)):
        assert metrics["top1_image_to_table"] == pytest.approx(4 / 6)
        assert metrics["top5_image_to_table"] == pytest.approx(5 / 6)


def test_only_negatives_count_in_retrieval():
    table = circle([0, 60, 120])
    image = circle([40, 58, 120])  # image 0 is nearest to row 1, the other row of its subject
    same_subject = targets.distinct(jnp.array([3, 3, 4]))
    assert info_nce(image, table, 0.0)[1]["top1_image_to_table"] == pytest.approx(2 / 3)
    assert info_nce(image, table, 0.0, negatives=same_subject)[1]["top1_image_to_table"] == 1
    both = targets.same_label(jnp.array([3, 3, 4]))
    assert info_nce(image, table, 0.0, positives=both)[1]["top1_image_to_table"] == pytest.approx(2 / 3)


def test_retrieval_of_views_by_hand():
    first, second = circle([0, 90, 200]), circle([10, 100, 95])
    # Anchors 0 and 10: the positive is nearest. Anchors 90 and 100: the positive is 10 degrees
    # away, 95 is nearer: rank 1. Anchor 200: positive at 105 degrees, 100 is nearer: rank 1. Anchor
    # 95: 90, 100, 10 and 0 are nearer: rank 4.
    metrics = nt_xent(first, second, 0.0)[1]
    assert metrics["top1"] == pytest.approx(2 / 6) and metrics["top5"] == 1


def test_top5_of_fewer_than_five_rows_is_one():
    image = rows(batch=3)
    _, metrics = info_nce(image, -image, 0.0)
    assert metrics["top5_image_to_table"] == 1
    assert metrics["top1_image_to_table"] == 0


@every_objective
def test_padding_has_no_influence_and_no_gradient(objective):
    image, table = pair()
    padded_image = np.where(VALID[:, None], image, np.nan)
    padded_table = np.where(VALID[:, None], table, 1e3).astype(np.float32)
    similarity = np.where(VALID[:, None] & VALID, SIMILARITY, np.nan)
    (loss, metrics), grads = objective.gradients(padded_image, padded_table, valid=VALID, positives=similarity)
    kept = SIMILARITY[np.ix_(VALID, VALID)]
    expected, expected_metrics = objective(image[VALID], table[VALID], positives=kept)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-5), name
    for grad in map(np.asarray, grads[:2]):
        assert np.all(np.isfinite(grad)) and np.all(grad[~VALID] == 0) and np.any(grad[VALID] != 0)


@every_objective
def test_a_batch_without_valid_rows_is_zero_and_finite(objective):
    image, table = pair()
    (loss, metrics), (grad, _, _) = objective.gradients(image, table, valid=np.zeros(8, bool))
    assert loss == 0 and np.all(np.asarray(grad) == 0)
    assert all(np.isfinite(v) for v in metrics.values())


@pytest.mark.parametrize("valid", [None, np.arange(8) == 3], ids=["a batch of one", "one valid row"])
def test_one_row_without_negatives_gives_zero(valid):
    image, table = (x[:1] if valid is None else x for x in pair())
    for name in ("info_nce", "nt_xent"):
        (loss, _), (grad, _, _) = OBJECTIVES[name].gradients(image, table, valid=valid)
        assert loss == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(grad, 0, atol=1e-6)
    loss, metrics = OBJECTIVES["sigmoid"](image, table, valid=valid)
    assert loss == metrics["loss_positives"] > 0 and metrics["loss_negatives"] == 0


@every_objective
@pytest.mark.parametrize("short", [0.0, 1e-30, 1e-13])
def test_a_zero_embedding_has_a_finite_gradient(objective, short):
    image, table = pair()
    image[2] *= short
    (loss, _), (grad, _, _) = objective.gradients(image, table)
    assert np.isfinite(loss) and np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[2] == 0)
    zeros = np.zeros((8, 4), np.float32)
    (loss, _), (grad_image, grad_table, _) = objective.gradients(zeros, zeros)
    assert np.isfinite(loss) and np.all(np.asarray(grad_image) == 0) and np.all(np.asarray(grad_table) == 0)


def test_labels_of_single_members_give_the_plain_loss():
    image, table = pair()
    alone = targets.same_label(jnp.array([0, 1, 2, 3, 4, 5, -1, -1]))
    for name in OBJECTIVES:
        plain = float(OBJECTIVES[name](image, table)[0])
        assert OBJECTIVES[name](image, table, positives=alone)[0] == pytest.approx(plain, rel=1e-6)
        assert OBJECTIVES[name](image, table, negatives=~alone)[0] == pytest.approx(plain, rel=1e-6)


def test_rows_with_missing_values_only_are_no_neighbours():
    image, table = pair()
    similarity = targets.table_similarity(VALUES, np.ones_like(VALUES, bool), (1, 1, 3), 0.5)
    loss, _ = OBJECTIVES["info_nce"](image, table, positives=targets.nearest(similarity, 6, 0.9))
    assert loss == pytest.approx(float(OBJECTIVES["info_nce"](image, table)[0]), rel=1e-6)


def test_an_image_without_positives_is_left_out():
    image, table = pair()
    positives = np.eye(8, dtype=bool)
    positives[3] = False  # table 3 then has no positive either
    loss, _ = OBJECTIVES["info_nce"](image, table, positives=positives)
    expected = reference_info_nce(image, table, -1.0, lambda i, j: float(positives[i, j]), all_negatives, range(8))
    assert loss == pytest.approx(expected, rel=1e-5)


@every_objective
def test_positives_carry_no_gradient(objective):
    image, table = pair()
    _, (_, _, grad) = objective.gradients(image, table, positives=SIMILARITY)
    assert np.all(np.asarray(grad) == 0)


@every_objective
def test_metrics_are_float32_scalars_without_gradient(objective):
    image, table = pair()
    loss, metrics = objective(image, table)
    for value in (loss, *metrics.values()):
        assert value.shape == () and value.dtype == jnp.float32
    grad = gradient_of(lambda x: sum(objective(x, table)[1].values()))(jnp.asarray(image))
    assert np.all(np.asarray(grad) == 0)


@every_objective
def test_bfloat16_is_computed_in_float32(objective):
    image, table = (jnp.asarray(x, jnp.bfloat16) for x in pair())
    loss, _ = objective(image, table)
    expected, _ = objective(image.astype(jnp.float32), table.astype(jnp.float32))
    assert loss.dtype == jnp.float32 and loss == expected


def test_a_learned_temperature_is_clipped():
    np.testing.assert_allclose(jnp.exp(clip_log_temperature(jnp.log(0.07))), 0.07, rtol=1e-6)
    for outside, bound in ((-9.0, 0.01), (-np.inf, 0.01), (0.4, 1.0), (np.inf, 1.0)):
        assert jnp.exp(clip_log_temperature(jnp.float32(outside))) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_gradient_of_a_clipped_temperature_leads_back_only(sign):
    def gradient(log_temperature):
        return float(gradient_of(lambda t: sign * clip_log_temperature(t))(jnp.float32(log_temperature)))

    # A step goes against the gradient: with sign 1 the parameter falls, which leads back from above
    # only.
    assert gradient(-2.0) == sign
    assert gradient(math.log(0.01)) == gradient(0.0) == sign
    assert gradient(0.5) == max(sign, 0)
    assert gradient(-5.0) == min(sign, 0)


def test_a_learned_temperature_comes_back_through_the_loss():
    image = jnp.eye(4)  # a lower temperature is better here: descent brings one above the bound back into the range
    grad = gradient_of(lambda t: info_nce(image, image, clip_log_temperature(t))[0])
    assert grad(jnp.float32(0.7)) > 0
    assert grad(jnp.float32(math.log(0.01) - 1)) == 0


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.inf, math.nan])
def test_impossible_temperatures(temperature):
    with pytest.raises(ValueError, match="temperature"):
        check_temperature(temperature)
    check_temperature(0.1)


@every_objective
def test_bad_shapes(objective):
    image, table = pair()
    for other in (table[:5], table[:, :3], table[None]):
        with pytest.raises(ValueError, match=r"\[B, P\]"):
            objective(image, other)
    with pytest.raises(ValueError, match="valid"):
        objective(image, table, valid=np.ones(5, bool))
    with pytest.raises(ValueError, match="positives"):
        objective(image, table, positives=np.ones((8, 5)))
    with pytest.raises(ValueError, match="negatives"):
        objective(image, table, negatives=np.ones(8, bool))


@pytest.mark.parametrize("log_temperature", [-math.inf, math.inf, math.nan])
def test_bad_log_temperatures(log_temperature):
    image, table = pair()
    for fn in (lambda *x: inverse_temperature(x[2]), info_nce, nt_xent, lambda *x: sigmoid(*x, -10.0)):
        with pytest.raises(ValueError, match="log_temperature"):
            fn(image, table, log_temperature)


@pytest.mark.parametrize("image_to_table_weight", [-0.1, 1.5, math.nan])
def test_bad_direction_weights(image_to_table_weight):
    with pytest.raises(ValueError, match="image_to_table_weight"):
        info_nce(*pair(), 0.0, image_to_table_weight)


def test_torch_cross_entropy():
    torch = pytest.importorskip("torch")
    image, table = pair(batch=9, width=5)
    a, b = (torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (image, table))
    logits, target = a @ b.T / 0.1, torch.arange(9)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, target) + entropy(logits.T, target)) / 2
    assert info_nce(image, table, math.log(0.1))[0] == pytest.approx(float(expected), rel=1e-5)
    expected = -torch.nn.functional.logsigmoid((2 * torch.eye(9) - 1) * (logits - 10)).sum() / 9
    assert sigmoid(image, table, math.log(0.1), -10.0)[0] == pytest.approx(float(expected), rel=1e-5)
