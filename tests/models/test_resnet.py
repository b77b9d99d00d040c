"""ResNet against transformers' ResNetModel with the same weights: forward, gradients, running
statistics.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.encoders import ENCODERS
from tests.models.oracles import convert, torch_resnet

WIDTH = 8
RNG = np.random.default_rng(0)


def value(p):
    return p.detach().numpy().copy()


@pytest.mark.parametrize(("name", "channels", "size"), [("resnet18", 1, 64), ("resnet34", 3, 64), ("resnet50", 3, 45)])
def test_eval_mode_equals_pytorch(name, channels, size):
    model = torch_resnet(name, channels, WIDTH).eval()
    import torch

    params, batch_stats = convert(model, value)
    image = RNG.standard_normal((2, size, size, channels), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image).permute(0, 3, 1, 2), output_hidden_states=True)
    encoder = ENCODERS[name](width=WIDTH)
    ours = jax.jit(encoder.apply, static_argnums=2)({"params": params, "batch_stats": batch_stats}, image, False)
    np.testing.assert_allclose(ours.pooled, expected.pooler_output[:, :, 0, 0], atol=1e-4, rtol=1e-4)
    # The first hidden state in transformers is the stem after pooling; here it is the map before
    # it.
    for a, b in zip(ours.pyramid[1:], expected.hidden_states[1:], strict=True):
        np.testing.assert_allclose(a, b.permute(0, 2, 3, 1), atol=1e-4, rtol=1e-4)
    init = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, False))
    chex.assert_trees_all_equal_shapes(dict(init["params"]), params)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_train_mode_equals_pytorch(name):
    """Batch statistics, the gradient of every parameter and of the image, and the update of the
    running statistics.

    In float64: many batch normalisations over few values leave too few correct digits in float32.
    """
    torch = pytest.importorskip("torch", reason="the oracle for ResNet needs PyTorch")
    depths = (2, 1, 1, 1)
    model = torch_resnet(name, 3, WIDTH, depths).double().train()
    params, batch_stats = convert(model, value)
    image = RNG.standard_normal((4, 64, 64, 3))
    x = torch.from_numpy(image).permute(0, 3, 1, 2).requires_grad_()
    out = model(x).pooler_output
    target = RNG.standard_normal(tuple(out.shape[:2]))
    (out[:, :, 0, 0] * torch.from_numpy(target)).sum().backward()
    expected_grads, expected_stats = convert(model, lambda p: p.grad.numpy().copy())

    with jax.enable_x64(True):
        encoder = ENCODERS[name](depths=depths, width=WIDTH, dtype=jnp.float64)

        def loss(params, image):
            variables = {"params": params, "batch_stats": batch_stats}
            features, new = encoder.apply(variables, image, True, mutable=["batch_stats"])
            return (features.pooled * target).sum(), (features.pooled, new["batch_stats"])

        params, image = jax.tree.map(jnp.asarray, (params, image))
        grads, (pooled, stats) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, image)
    np.testing.assert_allclose(pooled, out.detach()[:, :, 0, 0], atol=1e-4, rtol=1e-4)
    chex.assert_trees_all_close(dict(stats), expected_stats, atol=1e-5, rtol=1e-5)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads[0]):
        expected = expected_grads
        for key in path:
            expected = expected[key.key]
        np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max(), err_msg=str(path))
    expected = x.grad.permute(0, 2, 3, 1)
    np.testing.assert_allclose(grads[1], expected, atol=1e-4 * float(expected.abs().max()))


def test_pyramid_halves_from_2_to_32_and_takes_any_channels():
    for name, expansion in (("resnet18", 1), ("resnet50", 4)):
        image = jax.ShapeDtypeStruct((2, 128, 96, 5), jnp.float32)
        encoder = ENCODERS[name](width=16)
        features, variables = jax.eval_shape(lambda x, m=encoder: m.init_with_output(jax.random.key(0), x, True), image)
        channels = [16, *(expansion * 16 * 2**i for i in range(4))]
        assert [f.shape for f in features.pyramid] == [
            (2, 128 // s, 96 // s, c) for s, c in zip((2, 4, 8, 16, 32), channels, strict=True)
        ]
        assert features.pooled.shape == (2, channels[-1])
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_bfloat16_is_close_to_float32():
    image = RNG.standard_normal((2, 64, 64, 1), np.float32)
    depths = (1, 1, 1, 1)
    full, half = (ENCODERS["resnet18"](depths=depths, width=WIDTH, dtype=d) for d in (jnp.float32, jnp.bfloat16))

    @jax.jit
    def run(image):
        variables = full.init(jax.random.key(0), image, False)
        _, new = half.apply(variables, image, True, mutable=["batch_stats"])
        return full.apply(variables, image, False), half.apply(variables, image, False), new

    full_out, half_out, new = run(image)
    assert {x.dtype for x in half_out.pyramid} == {jnp.dtype(jnp.bfloat16)} and half_out.pooled.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype(jnp.float32)}
    error = np.linalg.norm(half_out.pooled - full_out.pooled) / np.linalg.norm(full_out.pooled)
    assert 0 < error < 0.02
