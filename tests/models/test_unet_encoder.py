"""The U-Net encoder and group normalisation against the same network in PyTorch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.encoders import ENCODERS
from morphojax.models.layers import GroupNorm, normalisation
from morphojax.models.unet_encoder import UNetEncoder

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


def torch_unet(x, params, norm, torch):
    """The maps of all stages, from parameters in our names, with batch statistics."""
    f, levels = torch.nn.functional, []
    for s in range(1, len(params) + 1):
        if s > 1:
            x = f.max_pool2d(x, 2, ceil_mode=True)
        for i in (1, 2):
            stage = params[f"stage{s}"]
            x = f.conv2d(x, stage[f"conv{i}"]["kernel"].permute(3, 2, 0, 1), padding=1)
            scale, bias = (stage[f"norm{i}"][name] for name in ("scale", "bias"))
            if norm == "batch":
                x = f.batch_norm(x, None, None, scale, bias, training=True)
            else:
                x = f.group_norm(x, 8 if x.shape[1] % 8 == 0 else 4, scale, bias)
            x = torch.relu(x)
        levels.append(x)
    return levels


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_maps_and_gradients_equal_pytorch(norm):
    """With odd sides at some stages, and with the cap reached."""
    torch = pytest.importorskip("torch", reason="the oracle for the U-Net encoder needs PyTorch")
    encoder, image = UNetEncoder(width=4, stages=4, cap=16, norm=norm), normal(2, 20, 28, 2)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, True))["params"]
    params = jax.tree.map(lambda p: 0.3 * normal(*p.shape) + (p.ndim == 1), shapes)
    tensors = jax.tree.map(lambda p: torch.from_numpy(p).requires_grad_(), dict(params))
    torch_maps = torch_unet(torch.from_numpy(image).permute(0, 3, 1, 2), tensors, norm, torch)
    assert [tuple(t.shape[1:]) for t in torch_maps] == [(4, 20, 28), (8, 10, 14), (16, 5, 7), (16, 3, 4)]
    target = normal(2, 16, 3, 4)
    ((torch_maps[-1] * torch.from_numpy(target)).sum() + (torch_maps[0] ** 2).sum()).backward()
    stats = jax.jit(encoder.init, static_argnums=2)(jax.random.key(0), image, True).get("batch_stats", {})

    def loss(params):
        variables = {"params": params, "batch_stats": stats}
        features, _ = encoder.apply(variables, image, True, mutable=["batch_stats"])
        last = (features.pyramid[-1] * target.transpose(0, 2, 3, 1)).sum()
        return last + jnp.square(features.pyramid[0]).sum(), features

    grads, features = jax.jit(jax.grad(loss, has_aux=True))(params)
    for ours, other in zip(features.pyramid, torch_maps, strict=True):
        np.testing.assert_allclose(
            ours, other.detach().permute(0, 2, 3, 1), atol=1e-4 * float(other.detach().abs().max())
        )
    np.testing.assert_allclose(features.pooled, torch_maps[-1].detach().mean((2, 3)), atol=1e-4)
    expected = jax.tree.map(lambda t: t.grad.numpy(), tensors)
    tolerance = 1e-4 * max(np.abs(g).max() for g in jax.tree.leaves(expected))
    chex.assert_trees_all_close(dict(grads), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "widths"), [("unet", (32, 64, 128, 256, 512)), ("unet_small", (8, 16, 32, 64, 128))])
def test_registered_encoders_have_their_shapes(name, widths):
    image = jax.ShapeDtypeStruct((2, 48, 40, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: ENCODERS[name]().init_with_output(jax.random.key(0), x, True), image)
    assert [f.shape for f in features.pyramid] == [
        (2, -(-48 // 2**i), -(-40 // 2**i), width) for i, width in enumerate(widths)
    ]
    assert features.pooled.shape == (2, widths[-1])


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (8, 8), (12, 4), (5, 1)])
def test_group_norm_equals_pytorch(channels, groups):
    """Also for a mean far from zero; `train` has no effect."""
    torch = pytest.importorskip("torch", reason="the oracle for group normalisation needs PyTorch")
    x, scale, bias = normal(3, 4, 5, channels) + 5, normal(channels), normal(channels)
    layer = torch.nn.GroupNorm(groups, channels)
    layer.load_state_dict({"weight": torch.from_numpy(scale), "bias": torch.from_numpy(bias)})
    torch_maps = layer(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach()
    for train in (True, False):
        ours = GroupNorm().apply({"params": {"scale": scale, "bias": bias}}, x, train)
        np.testing.assert_allclose(ours, torch_maps, atol=1e-4)


def test_unknown_normalisation_lists_the_choices():
    with pytest.raises(ValueError, match=r"config.model.norm='layer' is unknown: choose one of batch, group"):
        normalisation("layer", jnp.float32, "norm")
