import math

import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import embeddings as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of

embeddings = checks.compiled_functions(objectives)


def rows(batch=6, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, width)).astype(np.float32)


def unit(x):
    return [row / math.sqrt(sum(v * v for v in row)) for row in x.astype(np.float64)]


def reference_cka(x, y):
    """HSIC of the two Gram matrices with the centring matrix, in loops over pairs of examples."""
    n = len(x)
    centre = np.eye(n) - 1 / n

    def hsic(a, b):
        one, two = ([[float(u @ v) for v in z] for u in z.astype(np.float64)] for z in (a, b))
        one, two = centre @ np.array(one) @ centre, centre @ np.array(two) @ centre
        return sum(one[i][j] * two[i][j] for i in range(n) for j in range(n))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def test_linear_cka_equals_the_reference():
    x, y = rows() + 3, rows(width=7, seed=1) @ np.diag(np.arange(7.0)).astype(np.float32)
    for a, b in ((x, y), (y, x), (x, x[:, :2])):
        np.testing.assert_allclose(
            embeddings.linear_cka(jnp.asarray(a), jnp.asarray(b)), reference_cka(a, b), rtol=1e-5
        )


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_linear_cka_is_one_up_to_rotation_scale_and_shift(scale):
    x = rows(batch=50)
    rotation = np.linalg.qr(rows(batch=4, seed=2))[0]
    y = scale * (x @ rotation + 5)
    np.testing.assert_allclose(embeddings.linear_cka(jnp.asarray(x), jnp.asarray(y)), 1, rtol=1e-5)


def test_linear_cka_of_noise_is_small_for_many_examples_and_large_for_few():
    def noise(n, width):
        return float(embeddings.linear_cka(jnp.asarray(rows(n, width)), jnp.asarray(rows(n, width, seed=1))))

    assert noise(20_000, 8) < 2e-3 and noise(6, 200) > 0.9


def test_linear_cka_of_constants_is_zero_and_wrong_shapes_are_refused():
    assert embeddings.linear_cka(jnp.ones((5, 2)), jnp.asarray(rows(5))) == 0
    assert embeddings.linear_cka(jnp.zeros((5, 2)), jnp.zeros((5, 2))) == 0
    with pytest.raises(ValueError, match="same N examples"):
        embeddings.linear_cka(jnp.ones((5, 2)), jnp.ones((4, 2)))


PADDED = np.array([True, True, False, True, False, True])


def padded(x):
    return np.where(PADDED[:, None], x, np.nan)


def test_l2_normalise_has_unit_rows_and_a_zero_gradient_at_zero():
    x = rows()
    x[2] = 0
    norms = np.linalg.norm(embeddings.l2_normalise(jnp.asarray(x)), axis=1)
    np.testing.assert_allclose(norms, [1, 1, 0, 1, 1, 1], rtol=1e-6)
    grad = np.asarray(gradient_of(lambda x: embeddings.l2_normalise(x)[:, 0].sum())(jnp.asarray(x)))
    assert np.all(np.isfinite(grad)) and np.all(grad[2] == 0) and np.any(grad[0] != 0)


def test_cosines_equal_the_reference():
    a, b = rows(), rows(batch=3, seed=1)
    expected = [[sum(u * v) for v in unit(b)] for u in unit(a)]
    np.testing.assert_allclose(embeddings.cosines(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-5, atol=1e-6)


def test_alignment_equals_the_reference_and_lies_between_0_and_4():
    a, b = rows(), rows(seed=1)
    expected = [sum((u - v) ** 2) for u, v in zip(unit(a), unit(b), strict=True)]
    assert embeddings.alignment(a, b) == pytest.approx(np.mean(expected), rel=1e-5)
    assert embeddings.alignment(a, 3 * a) == pytest.approx(0, abs=1e-6)
    assert embeddings.alignment(a, -a) == pytest.approx(4, rel=1e-6)
    kept = [d for d, valid in zip(expected, PADDED, strict=True) if valid]
    assert embeddings.alignment(padded(a), padded(b), PADDED) == pytest.approx(np.mean(kept), rel=1e-5)


@pytest.mark.parametrize("t", [0.5, 2.0, 50.0])
def test_uniformity_equals_the_reference(t):
    def reference(z):
        pairs = [sum((u - v) ** 2) for i, u in enumerate(unit(z)) for v in unit(z)[i + 1 :]]
        return math.log(np.mean([math.exp(-t * d) for d in pairs]))

    z = rows()
    assert embeddings.uniformity(z, t=t) == pytest.approx(reference(z), rel=1e-4)
    assert embeddings.uniformity(padded(z), PADDED, t) == pytest.approx(reference(z[PADDED]), rel=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_l2_normalise_does_not_hide_what_is_not_finite(bad):
    rows = np.asarray(embeddings.l2_normalise(jnp.array([[3.0, 4.0], [bad, 1.0]])))
    np.testing.assert_allclose(rows[0], [0.6, 0.8], rtol=1e-6)
    assert np.isnan(rows[1]).any()


def test_uniformity_is_lowest_for_opposite_rows_and_zero_for_equal_ones():
    assert embeddings.uniformity(np.array([[1, 0], [-1, 0]], np.float32)) == pytest.approx(-8, rel=1e-6)
    assert embeddings.uniformity(np.ones((5, 3), np.float32)) == pytest.approx(0, abs=1e-6)


def test_modality_gap_is_the_distance_of_the_centroids():
    a, b = rows(), rows(seed=1)
    expected = math.sqrt(sum((np.mean(unit(a), axis=0) - np.mean(unit(b), axis=0)) ** 2))
    assert embeddings.modality_gap(a, b) == pytest.approx(expected, rel=1e-5)
    expected = math.sqrt(sum((np.mean(unit(a[PADDED]), axis=0) - np.mean(unit(b[PADDED]), axis=0)) ** 2))
    assert embeddings.modality_gap(padded(a), padded(b), PADDED) == pytest.approx(expected, rel=1e-5)
    # Aligned pairs can still form two clusters: every table row is shifted from its image in the
    # same direction.
    image = np.array([[1, 0.1], [1, -0.1]], np.float32)
    table = np.array([[1, 0.4], [1, 0.2]], np.float32)
    assert embeddings.modality_gap(image, table) > 0.25
    assert embeddings.modality_gap(image, image[::-1]) == pytest.approx(0, abs=1e-7)


def test_effective_rank():
    rng = np.random.default_rng(0)
    for shape in ((40, 8), (8, 40)):
        z = rng.normal(size=shape).astype(np.float32)
        s = np.linalg.svd(z.astype(np.float64), compute_uv=False)
        p = s / s.sum()
        assert embeddings.effective_rank(jnp.asarray(z)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    # A collapsed 128-wide embedding: float32 noise in 127 null directions must not count as rank.
    line = rng.normal(size=(256, 1)) * rng.normal(size=(1, 128))
    assert embeddings.effective_rank(jnp.asarray(line, jnp.float32)) == pytest.approx(1, abs=1e-3)
    assert embeddings.effective_rank(jnp.zeros((4, 3))) == 0


def test_effective_rank_without_padding():
    z = rows(width=9)
    assert embeddings.effective_rank(padded(z), PADDED) == pytest.approx(
        float(embeddings.effective_rank(z[PADDED])), rel=1e-5
    )


@pytest.mark.parametrize("valid", [np.zeros(6, bool), np.arange(6) == 3], ids=["none", "one"])
def test_too_few_rows_are_finite(valid):
    a, b = padded(rows()), rows(seed=1)
    assert embeddings.uniformity(b, valid) == 0
    if not valid.any():
        assert embeddings.alignment(a, b, valid) == embeddings.modality_gap(a, b, valid) == 0
        assert embeddings.effective_rank(a, valid) == 0
    else:
        assert embeddings.modality_gap(a, b, valid) ** 2 == pytest.approx(
            float(embeddings.alignment(a, b, valid)), rel=1e-5
        )
        assert embeddings.effective_rank(a, valid) == pytest.approx(1, rel=1e-5)


def test_measures_carry_no_gradient():
    a, b = jnp.asarray(rows()), jnp.asarray(rows(seed=1))
    measures = [
        lambda x: embeddings.alignment(x, b),
        embeddings.uniformity,
        lambda x: embeddings.modality_gap(x, b),
        embeddings.effective_rank,
    ]
    for measure in measures:
        assert np.all(np.asarray(gradient_of(measure)(a)) == 0)


def test_bad_arguments():
    a = rows()
    with pytest.raises(ValueError, match="valid"):
        embeddings.uniformity(a, np.ones(5, bool))
    with pytest.raises(ValueError, match=r"\[B, P\]"):
        embeddings.alignment(a, a[:1])
