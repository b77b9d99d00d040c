"""Integrated gradients against closed forms, and the measures of retrieval against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.attribution import rows
from morphojax.inference.similarity import SimilarityError, positions
from morphojax.models.tabular import TabularMLP

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_a_linear_function_is_exact_in_one_step():
    x, baseline, weights = draw(5, 3), draw(3), draw(5, 3)
    found, error = rows.integrated_gradients(lambda x, w: (x * w).sum(-1), x, baseline, weights, steps=1)
    np.testing.assert_allclose(found, weights * (x - baseline), rtol=1e-5, atol=1e-6)
    assert error < 1e-5


def test_a_quadratic_function_is_exact():
    """The midpoint rule integrates its linear gradient exactly: a_d (x_d^2 - b_d^2)."""
    x, baseline, weights = draw(5, 3), draw(3), draw(5, 3)
    for steps in (1, 3):
        found, _ = rows.integrated_gradients(lambda x, w: (x**2 * w).sum(-1), x, baseline, weights, steps)
        np.testing.assert_allclose(found, weights * (x**2 - baseline**2), rtol=1e-4, atol=1e-5)


def test_a_product_is_divided_by_the_straight_path():
    """From 0, x1 x2 gives each factor half of the product."""
    x = draw(4, 2)
    found, _ = rows.integrated_gradients(lambda x, _: x[:, 0] * x[:, 1], x, np.zeros(2, np.float32), x, steps=2)
    half = x.prod(axis=1) / 2
    np.testing.assert_allclose(found, np.stack([half, half], 1), rtol=1e-5, atol=1e-6)


def test_too_few_steps_are_an_error():
    x, baseline = np.ones((2, 1), np.float32), np.zeros(1, np.float32)
    arguments = (lambda x, _: jnp.tanh(20 * x[:, 0] - 8), x, baseline, x)
    with pytest.raises(SimilarityError, match=r"--steps=4: .* miss completeness .* give more steps"):
        rows.integrated_gradients(*arguments, steps=4)
    _, error = rows.integrated_gradients(*arguments, steps=200)
    assert error < rows.TOLERANCE


def test_inputs_are_summed_by_feature():
    where = positions(("a", "b", "c"), (1, 3, 1))
    assert {name: list(w) for name, w in where.items()} == {"a": [0, 5], "b": [1, 2, 3, 6], "c": [4, 7]}
    found = rows.by_feature({"m": np.arange(16.0).reshape(2, 8)}, where)
    assert {name: list(by_measure["m"]) for name, by_measure in found.items()} == {
        "a": [5, 21],
        "b": [12, 44],
        "c": [11, 27],
    }


def test_mean_image_of_the_others():
    images = draw(4, 3)
    expected = [np.delete(images, i, axis=0).mean(axis=0) for i in range(4)]
    np.testing.assert_allclose(rows.other_images(images), expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 3, 5, 6, 99])
def test_measures_against_all_batches(batch_size):
    n = 6
    similarity = np.round(RNG.normal(size=(n, n)), 1)
    similarity[0, 0] = similarity[0, 1] = similarity[0].max()  # a tie
    similarity[1, 1] = 9
    found = rows.measures(similarity, batch_size)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        drawn = list(itertools.combinations(others, min(batch_size, n) - 1))
        hits = [all(similarity[i, i] > similarity[i, j] for j in batch) for batch in drawn]
        assert found["top1_batch"][i] == pytest.approx(np.mean(hits))
        assert found["top1_split"][i] == all(similarity[i, i] > similarity[i, j] for j in others)
        assert found["own_minus_others"][i] == pytest.approx(similarity[i, i] - similarity[i, others].mean())
    assert found["top1_split"][0] == 0, "a tie is a miss"


def encoder(ignored: np.ndarray):
    """An encoder of rows whose weights of the `ignored` inputs are 0; and rows that it takes."""
    cardinalities = (1, 3, 1)
    model = TabularMLP(cardinalities, hidden_units=16, missing_flags=True, encoded_inputs=True)
    missing = RNG.uniform(size=(9, 3)) < 0.3
    inputs = np.concatenate([draw(9, 1), np.eye(3)[RNG.integers(0, 3, 9)], draw(9, 1), missing], 1).astype(np.float32)
    variables = model.init(jax.random.key(0), inputs[:, :5], inputs[:, 5:], False)
    kernel = np.array(variables["params"]["dense1"]["kernel"])
    kernel[ignored] = 0
    variables["params"]["dense1"]["kernel"] = kernel

    @jax.jit
    def embed(x):
        z = model.apply(variables, x[:, :5], x[:, 5:], False).pooled
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    return embed, inputs


def test_a_column_that_the_encoder_ignores_has_exactly_no_effect():
    where = positions(("number", "ignored", "other"), (1, 3, 1))
    embed, inputs = encoder(where["ignored"])
    images = np.asarray(embed(inputs))
    retrieval = rows.Retrieval(embed, images, inputs, batch_size=4)
    np.testing.assert_array_equal(retrieval.intact["top1_split"], 1)
    for falls in (retrieval.permutation(where, 5, seed=0), retrieval.replaced(where, inputs.mean(axis=0))):
        for values in falls["ignored"].values():
            np.testing.assert_array_equal(values, 0)
        assert falls["number"]["own_minus_others"].mean() > 0
    gradients, _ = rows.integrated_gradients(
        lambda x, z: (embed(x) * z).sum(-1), inputs, inputs.mean(axis=0), images, steps=512
    )
    found = rows.by_feature({"m": gradients}, where)
    np.testing.assert_array_equal(found["ignored"]["m"], 0)
    assert np.abs(found["number"]["m"]).max() > 0


def test_permutation_and_replacement_by_hand():
    """Rows are their own embeddings: two columns, of which only the first differs between
    subjects.
    """
    inputs = np.array([[1, 0.5], [0, 0.5], [-1, 0.5]], np.float32)
    retrieval = rows.Retrieval(lambda x: x, inputs, inputs, batch_size=3)
    features = {"first": np.array([0]), "second": np.array([1])}
    order = np.random.default_rng(7).permutation(3)
    moved = np.stack([inputs[order, 0], inputs[:, 1]], 1)
    changed = rows.measures(inputs @ moved.T, 3)
    found = retrieval.permutation(features, 1, seed=7)
    for measure, values in retrieval.intact.items():
        np.testing.assert_allclose(found["first"][measure], values - changed[measure])
        np.testing.assert_array_equal(found["second"][measure], 0)
    replaced = retrieval.replaced(features, np.array([0, 0.5], np.float32))["first"]
    np.testing.assert_allclose(replaced["own_minus_others"], retrieval.intact["own_minus_others"])


def test_batches_of_rows():
    x = draw(7, 2)
    for size in (2, 7, 100):
        np.testing.assert_array_equal(rows.in_batches(lambda x: 2 * x, x, size), 2 * x)
