import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import local as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

regional = checks.compiled(objectives.regional)

VALID = np.array([True, True, False, True, True, True, False, True])


loss_of = jax.jit(
    lambda *arrays, region=2, **more: regional(*arrays, -1.0, region, **more)[0], static_argnames="region"
)


def maps(batch=8, h=4, w=6, c=3, seed=0):
    """Feature maps of two similar views."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(batch, h, w, c)).astype(np.float32)
    return first, (first + 0.7 * rng.normal(size=first.shape)).astype(np.float32)


def reference_regions(x, side):
    """[h,w,C] -> a list of vectors, from a window centred on the map."""
    h, w, c = x.shape
    top, left = (h % side) // 2, (w % side) // 2
    regions = []
    for row in range(h // side):
        for column in range(w // side):
            vector = []
            for y in range(side):
                for z in range(side):
                    vector += [x[top + row * side + y, left + column * side + z, k] for k in range(c)]
            regions.append(np.array(vector))
    return regions


def cosine(a, b):
    return sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))


def reference_regional(first, second, log_temperature, valid=None, side=2, chosen=None):
    """Equation 3 of Chaitanya et al. 2020, slice by slice and region by region."""
    tau = math.exp(log_temperature)
    slices = []
    for n in range(len(first)):
        if valid is not None and not valid[n]:
            continue
        views = [reference_regions(x[n], side) for x in (first, second)]
        regions = range(len(views[0])) if chosen is None else chosen
        terms = []
        for f, g in (views, views[::-1]):
            for u in regions:
                positive = math.exp(cosine(f[u], g[u]) / tau)
                negatives = 0.0
                for v in regions:
                    if v != u:
                        negatives += math.exp(cosine(f[u], f[v]) / tau) + math.exp(cosine(f[u], g[v]) / tau)
                terms.append(-math.log(positive / (positive + negatives)))
        slices.append(sum(terms) / len(terms))
    return sum(slices) / len(slices)


def case(name, h=4, w=6, valid=None, side=2, sampled=None):
    first, second = maps(h=h, w=w)
    fixed = {}
    if valid is not None:
        first[~valid] = second[~valid] = np.nan
        fixed = {"valid": valid}
    key, regions = jax.random.key(3), (h // side) * (w // side)
    chosen = None if sampled is None else [int(i) for i in jax.random.choice(key, regions, (sampled,), replace=False)]
    return checks.Case(
        name,
        jax.jit(lambda **arrays: regional(**arrays, region=side, sampled=sampled, key=key)[0]),
        lambda **arrays: reference_regional(**arrays, side=side, chosen=chosen),
        learned={"first": first, "second": second},
        fixed=fixed,
        shared={"log_temperature": np.float32(math.log(0.3))},
    )


CASES = [
    case("local: regions of 2"),
    case("local: regions of 1", h=3, w=2, side=1),
    case("local: regions of 3 with pixels left over", h=8, w=7, side=3),
    case("local: padding", valid=VALID),
    case("local: sampled", h=6, w=6, sampled=4),
]


def test_two_regions_by_hand():
    # Both views are (1, 0) and (0, 1): the positive has cosine 1, the two negatives of each region
    # cosine 0.
    x = jnp.eye(2).reshape(1, 1, 2, 2)
    loss, metrics = jax.jit(lambda x: regional(x, x, math.log(0.5), region=1))(x)
    assert loss == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), rel=1e-6)
    assert metrics["temperature"] == pytest.approx(0.5, rel=1e-6)
    assert metrics["top1"] == 1


def test_a_step_raises_similarity_to_the_positive_and_lowers_that_to_negatives():
    # Each region of the second view equals that of the first plus a component in a direction of its
    # own.
    f = np.array([[1, 0.1, 0, 0], [0.1, 1, 0, 0]])
    g = f + 0.5 * np.array([[0, 0, 1, 0], [0, 0, 0, 1]])
    first, second = (jnp.asarray(x, jnp.float32).reshape(1, 1, 2, 4) for x in (f, g))
    grad = gradient_of(lambda x: loss_of(x, second, region=1))(first)
    after = f - 0.1 * np.asarray(grad, np.float64).reshape(2, 4)
    for u, v in ((0, 1), (1, 0)):
        assert cosine(after[u], g[u]) > cosine(f[u], g[u])
        assert cosine(after[u], g[v]) < cosine(f[u], g[v])
    assert cosine(after[0], after[1]) < cosine(f[0], f[1])


def test_regions_of_other_slices_are_no_negatives():
    first, second = maps()
    alone = [float(loss_of(first[i : i + 1], second[i : i + 1])) for i in range(8)]
    assert loss_of(first, second) == pytest.approx(np.mean(alone), rel=1e-6)


def test_swapping_views_and_scaling_regions_do_not_matter():
    first, second = maps()
    scale = np.repeat(np.linspace(0.5, 3, 3, dtype=np.float32), 2)[:, None]
    expected = loss_of(first, second)
    assert loss_of(scale * second, first / scale) == pytest.approx(float(expected), rel=1e-5)


def test_leftover_pixels_have_no_influence():
    first, second = maps(h=5, w=8)
    grad = gradient_of(lambda x: loss_of(x, second, region=3))(jnp.asarray(first))
    used = np.any(np.asarray(grad) != 0, axis=(0, 3))
    expected = np.zeros((5, 8), bool)
    expected[1:4, 1:7] = True
    np.testing.assert_array_equal(used, expected)


def test_sampling_depends_on_the_key_and_sampling_all_regions_is_the_full_loss():
    first, second = maps(h=6, w=6)
    drawn = jax.jit(lambda key, sampled: regional(first, second, -1.0, 2, sampled, key)[0], static_argnums=1)
    assert len({float(drawn(jax.random.key(i), 4)) for i in range(4)}) > 1
    assert drawn(jax.random.key(0), 9) == pytest.approx(float(loss_of(first, second)), rel=1e-6)


def test_metrics_are_of_valid_slices():
    x, _ = maps()
    y = np.array(x[:, ::-1, ::-1])  # in slice 2, another region is the most similar
    y[np.arange(8) != 2] = x[np.arange(8) != 2]
    metrics = jax.jit(lambda valid: regional(x, y, -1.0, 2, valid=valid)[1])
    everything, kept = metrics(jnp.ones(8, bool)), metrics(jnp.asarray(VALID))
    assert everything["top1"] == pytest.approx(7 / 8) and kept["top1"] == 1
    assert all(m.shape == () and m.dtype == jnp.float32 for m in kept.values())


def test_low_precision_is_computed_in_float32():
    first, second = (jnp.asarray(x, jnp.bfloat16) for x in maps())
    loss, expected = loss_of(first, second), loss_of(first.astype(jnp.float32), second.astype(jnp.float32))
    assert loss.dtype == jnp.float32 and loss == expected


def test_zero_maps_and_no_valid_slice_are_finite():
    first, second = maps()

    def both(first, second, valid=None):
        return value_and_gradient_of(lambda x: loss_of(x, second, valid=valid))(jnp.asarray(first))

    loss, grad = both(0 * first, second)
    assert np.isfinite(loss) and np.all(np.asarray(grad) == 0)
    loss, grad = both(0 * first, 0 * second)
    assert loss == pytest.approx(math.log(11), rel=1e-6) and np.all(np.asarray(grad) == 0)  # 6 regions: 10 negatives
    loss, grad = both(np.nan * first, np.nan * second, jnp.zeros(8, bool))
    assert loss == 0 and np.all(np.asarray(grad) == 0)


def test_bad_arguments():
    first, second = maps()
    for message, arguments in (
        ("feature maps", dict(second=second[:, 1:])),
        ("feature maps", dict(first=first[0], second=second[0])),
        ("region", dict(region=0)),
        ("contrast needs at least 2", dict(region=4)),
        ("contrast needs at least 2", dict(region=5)),
        ("sampled must", dict(sampled=1, key=jax.random.key(0))),
        ("sampled must", dict(sampled=7, key=jax.random.key(0))),
        ("key", dict(sampled=3)),
        ("valid", dict(valid=jnp.ones(7, bool))),
        ("log_temperature", dict(log_temperature=-math.inf)),
        ("log_temperature", dict(log_temperature=math.inf)),
    ):
        with pytest.raises(ValueError, match=message):
            regional(**dict(first=first, second=second, log_temperature=-1.0, region=2) | arguments)
