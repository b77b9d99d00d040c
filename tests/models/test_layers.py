import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models import layers
from morphojax.models.layers import BatchNorm, SubpixelConv, conv

RNG = np.random.default_rng(0)


def test_gelu_and_its_gradient_by_hand():
    x = np.linspace(-6, 6, 49)
    distribution = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    ours, pullback = jax.vjp(layers.gelu, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, x * distribution, atol=2e-6)
    np.testing.assert_allclose(pullback(jnp.ones(49))[0], distribution + x * density, atol=2e-6)
    assert layers.gelu(jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("size", "stride"), [((4, 4), 1), ((7, 10), 2)])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_convolution_equals_pytorch(size, stride, kernel):
    torch = pytest.importorskip("torch", reason="the oracle for convolution needs PyTorch")
    x = RNG.standard_normal((2, *size, 3)).astype(np.float32)
    weight = RNG.standard_normal((kernel, kernel, 3, 5)).astype(np.float32)
    y = conv(5, kernel, stride).apply({"params": {"kernel": weight}}, x)
    tensors = (torch.from_numpy(a) for a in (x.transpose(0, 3, 1, 2), weight.transpose(3, 2, 0, 1)))
    expected = torch.nn.functional.conv2d(*tensors, stride=stride, padding=kernel // 2)
    np.testing.assert_allclose(y, expected.permute(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_subpixel_convolution_equals_the_transposed_convolution_of_pytorch(factor):
    torch = pytest.importorskip("torch", reason="the oracle for the transposed convolution needs PyTorch")
    x, gradient = (RNG.standard_normal((2, 3 * s, 5 * s, c)).astype(np.float32) for s, c in ((1, 6), (factor, 4)))
    weight = RNG.standard_normal((6, factor, factor, 4)).astype(np.float32)
    bias = RNG.standard_normal((factor, factor, 4)).astype(np.float32)  # one for each pixel of a block
    params = {"kernel": weight.reshape(6, -1), "bias": bias.reshape(-1)}
    layer = SubpixelConv(4, factor)
    assert jax.tree.map(np.shape, layer.init(jax.random.key(0), x)["params"]) == jax.tree.map(np.shape, params)
    y, pullback = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    grads, grad_x = pullback(jnp.asarray(gradient))
    tensors = [torch.tensor(a, requires_grad=True) for a in (x.transpose(0, 3, 1, 2), weight.transpose(0, 3, 1, 2))]
    out = torch.nn.functional.conv_transpose2d(*tensors, stride=factor)
    out.backward(torch.from_numpy(gradient.transpose(0, 3, 1, 2)))
    expected = out.detach().permute(0, 2, 3, 1).numpy() + np.tile(bias, (3, 5, 1))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(grad_x, tensors[0].grad.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(grads["kernel"], tensors[1].grad.permute(0, 2, 3, 1).reshape(6, -1), atol=1e-4)
    blocks = gradient.reshape(2, 3, factor, 5, factor, 4).sum((0, 1, 3))
    np.testing.assert_allclose(grads["bias"], blocks.reshape(-1), atol=1e-4)


def test_batch_norm_equals_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle for BatchNorm needs PyTorch")
    x = (3 + 2 * RNG.standard_normal((4, 5, 5, 3))).astype(np.float32)
    gradient = RNG.standard_normal(x.shape).astype(np.float32)
    module = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(module.weight)
    torch.nn.init.uniform_(module.bias)
    params = {"scale": jnp.array(module.weight.detach()), "bias": jnp.array(module.bias.detach())}
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    t = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    out = module(t)
    out.backward(torch.from_numpy(gradient).permute(0, 3, 1, 2))

    def apply(params, x):
        return BatchNorm().apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])

    ours, pullback, new = jax.vjp(apply, params, jnp.asarray(x), has_aux=True)
    grads, grad_x = pullback(jnp.asarray(gradient))
    np.testing.assert_allclose(ours, out.detach().permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(grad_x, t.grad.permute(0, 2, 3, 1), atol=1e-5)
    # Sums of a hundred terms of either sign: the rounding error is relative to the terms, not to
    # the sum.
    np.testing.assert_allclose(grads["scale"], module.weight.grad, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(grads["bias"], module.bias.grad, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], module.running_mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], module.running_var, rtol=1e-5)


def test_running_statistics_by_hand():
    """From zero and one: 0.9 of the old plus 0.1 of the new; the variance with n - 1."""
    x = np.array([1.0, 2.0, 3.0, 6.0], np.float32).reshape(4, 1, 1, 1)
    variables = {"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}
    variables["batch_stats"] = {"mean": jnp.zeros(1), "var": jnp.ones(1)}
    _, new = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * 3, rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * (4 + 1 + 0 + 9) / 3, rtol=1e-6)


def test_batch_norm_is_exact_far_from_zero():
    """The variance has three correct digits in float32 if the mean is a thousand standard
    deviations.
    """
    x = (1000 + RNG.standard_normal((64, 8, 8, 1))).astype(np.float32)
    stats = {"mean": jnp.zeros(1), "var": jnp.ones(1)}
    params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    y, _ = BatchNorm().apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(y, (x64 - x64.mean()) / np.sqrt(x64.var() + 1e-5), atol=1e-2)
