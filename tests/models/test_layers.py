import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models import layers
from morphojax.models.layers import BatchNorm, max_pool

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "kernel", "axes"), [((2, 3, 5), (5, 4), (2,)), ((2, 3, 2, 4), (2, 4, 6), (2, 3)), ((5,), (5, 2, 3), (0,))]
)
def test_a_linear_map_and_its_gradients_equal_the_plain_product(shape, kernel, axes):
    x, w = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in (shape, kernel))
    dimensions = ((axes, tuple(range(len(axes)))), ((), ()))
    ours, pullback = jax.vjp(lambda x, w: layers.contract(x, w, dimensions), x, w)
    theirs, plain_pullback = jax.vjp(lambda x, w: jax.lax.dot_general(x, w, dimensions), x, w)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    gradient = jnp.asarray(RNG.standard_normal(ours.shape), jnp.float32)
    for a, b in zip(pullback(gradient), plain_pullback(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_product_that_is_no_linear_map_is_refused():
    with pytest.raises(ValueError, match="last axes of x"):
        layers.contract(jnp.ones((5, 3)), jnp.ones((5, 2)), (((0,), (0,)), ((), ())))


def test_gelu_is_x_times_the_normal_distribution_and_its_gradient():
    x = np.linspace(-6, 6, 49)
    distribution = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    ours, pullback = jax.vjp(layers.gelu, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, x * distribution, atol=2e-6)
    np.testing.assert_allclose(pullback(jnp.ones(49))[0], distribution + x * density, atol=2e-6)
    assert layers.gelu(jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16


def plain_max_pool(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2), (2, 5)])
def test_max_pool_and_its_gradient_equal_reduce_window(size):
    """On values with many ties, where the gradient must go to the first maximum."""
    x = jnp.asarray(RNG.integers(0, 3, (2, *size, 3)), jnp.float32)
    ours, pullback = jax.vjp(max_pool, x)
    plain, plain_pullback = jax.vjp(plain_max_pool, x)
    np.testing.assert_array_equal(ours, plain)
    np.testing.assert_array_equal(max_pool(x), plain)
    gradient = jnp.asarray(RNG.integers(1, 9, ours.shape), jnp.float32)
    np.testing.assert_array_equal(pullback(gradient)[0], plain_pullback(gradient)[0])


def test_max_pool_sends_the_gradient_where_pytorch_does():
    torch = pytest.importorskip("torch", reason="the oracle for max-pooling needs PyTorch")
    x = RNG.integers(0, 3, (2, 9, 8, 3)).astype(np.float32)
    ours, pullback = jax.vjp(max_pool, jnp.asarray(x))
    gradient = RNG.integers(1, 9, ours.shape).astype(np.float32)
    t = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    out = torch.nn.functional.max_pool2d(t, 3, 2, 1)
    out.backward(torch.from_numpy(gradient).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(ours, out.detach().permute(0, 2, 3, 1))
    np.testing.assert_array_equal(pullback(jnp.asarray(gradient))[0], t.grad.permute(0, 2, 3, 1))


def test_max_pool_passes_nan_on():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert np.isnan(max_pool(x)).sum() == np.isnan(plain_max_pool(x)).sum() == 4
    assert np.isnan(jax.vjp(max_pool, x)[0]).sum() == 4


def test_batch_norm_equals_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle for BatchNorm needs PyTorch")
    x = (3 + 2 * RNG.standard_normal((4, 5, 5, 3))).astype(np.float32)
    gradient = RNG.standard_normal(x.shape).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(theirs.weight)
    torch.nn.init.uniform_(theirs.bias)
    params = {"scale": jnp.array(theirs.weight.detach()), "bias": jnp.array(theirs.bias.detach())}
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    t = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    out = theirs(t)
    out.backward(torch.from_numpy(gradient).permute(0, 3, 1, 2))

    def apply(params, x):
        return BatchNorm().apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])

    ours, pullback, new = jax.vjp(apply, params, jnp.asarray(x), has_aux=True)
    grads, grad_x = pullback(jnp.asarray(gradient))
    np.testing.assert_allclose(ours, out.detach().permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(grad_x, t.grad.permute(0, 2, 3, 1), atol=1e-5)
    # Sums of a hundred terms of either sign: what float32 keeps is relative to the terms, not to the sum.
    np.testing.assert_allclose(grads["scale"], theirs.weight.grad, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(grads["bias"], theirs.bias.grad, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], theirs.running_var, rtol=1e-5)


def test_batch_norm_keeps_its_digits_far_from_zero():
    """A mean a thousand deviations away leaves the variance right to three digits, in float32."""
    x = (1000 + RNG.standard_normal((64, 8, 8, 1))).astype(np.float32)
    stats = {"mean": jnp.zeros(1), "var": jnp.ones(1)}
    params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    y, _ = BatchNorm().apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(y, (x64 - x64.mean()) / np.sqrt(x64.var() + 1e-5), atol=1e-2)


def test_a_materialised_gradient_is_the_gradient():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.bfloat16)
    weight = jnp.arange(24.0).reshape(2, 3, 4)

    def loss(x, through):
        return (jnp.sin(through(x).astype(jnp.float32)) * weight).sum()

    assert layers.materialised(x) is x
    plain = jax.grad(loss)(x, lambda x: x)
    for grad in (jax.grad(loss), jax.jit(jax.grad(loss), static_argnums=1)):
        ours = grad(x, layers.materialised)
        assert ours.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(plain, np.float32))
