"""The gradients of `models.cpu` against those of the plain operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models import cpu, layers

RNG = np.random.default_rng(0)


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
def test_banded_convolution_has_the_gradients_of_the_plain_one(kernel, stride, shape):
    x = jnp.asarray(RNG.standard_normal((*shape, 3)), jnp.float32)
    weights = jnp.asarray(RNG.standard_normal((kernel, kernel, 3, 5)), jnp.float32)
    banded, pullback = jax.vjp(lambda x, k: cpu._banded(x, k, stride), x, weights)
    plain, plain_pullback = jax.vjp(lambda x, k: cpu._plain(x, k, stride), x, weights)
    np.testing.assert_array_equal(banded, plain)
    gradient = jnp.asarray(RNG.standard_normal(banded.shape), jnp.float32)
    for a, b in zip(pullback(gradient), plain_pullback(gradient), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_gradient_of_a_banded_convolution_in_bfloat16():
    x, weights = (jnp.asarray(RNG.standard_normal(s), jnp.bfloat16) for s in ((2, 8, 8, 3), (3, 3, 3, 4)))
    banded, pullback = jax.vjp(lambda x, k: cpu._banded(x, k, 1), x, weights)
    expected = jax.vjp(lambda x, k: cpu._plain(x, k, 1), *(a.astype(jnp.float32) for a in (x, weights)))[1]
    gradient = jnp.asarray(RNG.standard_normal(banded.shape), jnp.bfloat16)
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
@pytest.mark.parametrize("enabled", [True, False])
def test_large_maps_of_many_channels_are_banded_on_the_cpu(shape, features, banded, enabled, monkeypatch):
    monkeypatch.setattr(cpu, "enabled", lambda: enabled)
    x, weights = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (3, 3, shape[-1], features)))
    conv = layers.conv(features, 3)
    gradient = jax.make_jaxpr(jax.grad(lambda k, x: conv.apply({"params": {"kernel": k}}, x).sum()))(weights, x)
    assert any(equation.primitive.name in ("while", "scan") for equation in gradient.eqns) == (banded and enabled)
