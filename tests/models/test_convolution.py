import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models import convolution
from morphojax.models.convolution import Conv

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_conv_equals_the_plain_convolution(kernel, stride, size):
    x = jnp.asarray(RNG.standard_normal((2, *size, 3)), jnp.float32)
    conv = Conv(4, kernel, stride)
    params = conv.init(jax.random.key(0), x)
    pad = kernel // 2
    plain = nn.Conv(4, (kernel, kernel), (stride, stride), padding=((pad, pad), (pad, pad)), use_bias=False)
    ours, pullback = jax.vjp(conv.apply, params, x)
    theirs, plain_pullback = jax.vjp(plain.apply, params, x)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    gradient = jnp.asarray(RNG.standard_normal(ours.shape), jnp.float32)
    for a, b in zip(*map(jax.tree.leaves, (pullback(gradient), plain_pullback(gradient))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 1, (4, 5)), (3, 1, (1, 2)), (3, 2, (4, 4)), (3, 2, (5, 2)), (7, 2, (6, 5))]
)
def test_a_wide_convolution_and_its_gradients_equal_the_plain_ones(kernel, stride, size):
    x = jnp.asarray(RNG.standard_normal((2, *size, 3)), jnp.float32)
    weights = jnp.asarray(RNG.standard_normal((kernel, kernel, 3, 5)), jnp.float32)
    ours, pullback = jax.vjp(lambda x, k: convolution._wide(x, k, stride), x, weights)
    plain, plain_pullback = jax.vjp(lambda x, k: convolution._plain(x, k, stride), x, weights)
    np.testing.assert_allclose(ours, plain, atol=1e-4)
    gradient = jnp.asarray(RNG.standard_normal(ours.shape), jnp.float32)
    for a, b in zip(pullback(gradient), plain_pullback(gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


# Several bands of rows, and one; sides that the stride does not divide.
@pytest.mark.parametrize(
    ("kernel", "stride", "shape"),
    [
        (3, 1, (8, 16, 18)),
        (3, 1, (2, 7, 5)),
        (3, 2, (16, 33, 30)),
        (3, 2, (2, 6, 6)),
        (5, 2, (2, 9, 12)),
        (7, 2, (3, 8, 9)),
    ],
)
def test_a_banded_convolution_has_the_gradients_of_the_plain_one(kernel, stride, shape):
    x = jnp.asarray(RNG.standard_normal((*shape, 3)), jnp.float32)
    weights = jnp.asarray(RNG.standard_normal((kernel, kernel, 3, 5)), jnp.float32)
    ours, pullback = jax.vjp(lambda x, k: convolution._banded(x, k, stride), x, weights)
    plain, plain_pullback = jax.vjp(lambda x, k: convolution._plain(x, k, stride), x, weights)
    np.testing.assert_array_equal(ours, plain)
    gradient = jnp.asarray(RNG.standard_normal(ours.shape), jnp.float32)
    for a, b in zip(pullback(gradient), plain_pullback(gradient), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_gradient_of_a_banded_convolution_in_bfloat16():
    x, weights = (jnp.asarray(RNG.standard_normal(s), jnp.bfloat16) for s in ((2, 8, 8, 3), (3, 3, 3, 4)))
    ours, pullback = jax.vjp(lambda x, k: convolution._banded(x, k, 1), x, weights)
    expected = jax.vjp(lambda x, k: convolution._plain(x, k, 1), *(a.astype(jnp.float32) for a in (x, weights)))[1]
    gradient = jnp.asarray(RNG.standard_normal(ours.shape), jnp.bfloat16)
    for a, b in zip(pullback(gradient), expected(gradient.astype(jnp.float32)), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.02, atol=0.1)


@pytest.mark.parametrize(
    ("shape", "features", "banded"),
    [
        ((24, 32, 32, 64), 64, True),
        ((2, 32, 32, 64), 64, False),  # few pixels
        ((64, 128, 128, 16), 64, False),  # few channels
        ((512, 8, 8, 64), 64, False),  # a small map
    ],
)
def test_large_maps_of_many_channels_are_banded(shape, features, banded):
    x, weights = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (3, 3, shape[-1], features)))
    gradient = jax.make_jaxpr(jax.grad(lambda k, x: convolution.convolve(x, k, 1).sum()))(weights, x)
    assert any(equation.primitive.name in ("while", "scan") for equation in gradient.eqns) == banded
