"""ConvNeXt against transformers' ConvNextModel with the same weights: forward and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.convnext import ConvNeXt, ConvNeXtBlock
from morphojax.models.encoders import ENCODERS
from morphojax.models.towers import Segmenter
from morphojax.models.unet import UNetDecoder
from morphojax.train.optimizer import layer_scales

RNG = np.random.default_rng(0)
WIDTH, DEPTHS = 8, (1, 1, 2, 1)


def draw(*shape):
    return RNG.standard_normal(shape, np.float32)


def torch_convnext(channels):
    """transformers' ConvNextModel, every parameter drawn at random; strided convolutions fill their
    last patch with zeros.
    """
    torch = pytest.importorskip("torch", reason="the oracle for ConvNeXt needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="the oracle for ConvNeXt needs transformers")
    config = transformers.ConvNextConfig(
        num_channels=channels, hidden_sizes=[WIDTH * 2**i for i in range(4)], depths=list(DEPTHS), layer_norm_eps=1e-6
    )
    torch.manual_seed(0)
    model = transformers.ConvNextModel(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.uniform_(parameter, *((-0.3, 0.3) if name.endswith("bias") else (0.5, 1.0)))

    def fill(conv, inputs):
        (x,) = inputs
        stride = conv.stride[0]
        return torch.nn.functional.pad(x, (0, -x.shape[3] % stride, 0, -x.shape[2] % stride))

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.stride[0] > 1:
            module.register_forward_pre_hook(fill)
    return model


def convert(model, read):
    """The parameters in our names; read maps a PyTorch parameter to an array (its value, or its
    gradient).
    """

    def norm(layer):
        return {"scale": read(layer.weight), "bias": read(layer.bias)}

    def dense(layer):
        return {"kernel": read(layer.weight).T, "bias": read(layer.bias)}

    def patches(layer):
        kernel = read(layer.weight).transpose(2, 3, 1, 0)
        return {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": read(layer.bias)}

    params = {
        "stem_conv": patches(model.embeddings.patch_embeddings),
        "stem_norm": norm(model.embeddings.layernorm),
        "norm": norm(model.layernorm),
    }
    for s, stage in enumerate(model.encoder.stages, start=1):
        if s > 1:
            params[f"stage{s}_down_norm"] = norm(stage.downsampling_layer[0])
            params[f"stage{s}_down_conv"] = patches(stage.downsampling_layer[1])
        for b, layer in enumerate(stage.layers, start=1):
            kernel, bias = read(layer.dwconv.weight).transpose(2, 3, 1, 0), read(layer.dwconv.bias)
            params[f"stage{s}_block{b}"] = {
                "depthwise": {"kernel": kernel, "bias": bias},
                "norm": norm(layer.layernorm),
                "dense1": dense(layer.pwconv1),
                "dense2": dense(layer.pwconv2),
                "scale": read(layer.layer_scale_parameter),
            }
    return params


def run_torch(model, image):
    """(image as a leaf [B,C,H,W], pyramid of [B,h,w,c], pooled)."""
    import torch

    stages = []
    hooks = [s.register_forward_hook(lambda module, inputs, out: stages.append(out)) for s in model.encoder.stages]
    x = torch.from_numpy(image).permute(0, 3, 1, 2).requires_grad_()
    pooled = model(x).pooler_output
    for hook in hooks:
        hook.remove()
    return x, [s.permute(0, 2, 3, 1) for s in stages], pooled


def assert_close(ours, theirs, what=""):
    """To 1e-4 of the largest value."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=str(what))


@pytest.mark.parametrize(("channels", "size"), [(1, (64, 64)), (3, (96, 128)), (1, (45, 70))])
def test_forward_and_gradients_equal_pytorch(channels, size):
    """Every level, the pooled features, and the gradients of all parameters and of the image."""
    model = torch_convnext(channels)
    image = draw(2, *size, channels)
    x, pyramid, pooled = run_torch(model, image)
    targets = [draw(*out.shape) for out in (*pyramid, pooled)]
    sum(
        (out * target).sum() for out, target in zip((*pyramid, pooled), map(x.new_tensor, targets), strict=True)
    ).backward()
    expected = convert(model, lambda p: p.grad.numpy().copy())

    def loss(params, image):
        out = ConvNeXt(DEPTHS, WIDTH).apply({"params": params}, image, True)
        return sum((o * t).sum() for o, t in zip((*out.pyramid, out.pooled), targets, strict=True)), out

    params = jax.tree.map(jnp.asarray, convert(model, lambda p: p.detach().numpy().copy()))
    grads, ours = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, image)
    assert_close(ours.pooled, pooled.detach(), "pooled")
    for level, (a, b) in enumerate(zip(ours.pyramid, pyramid, strict=True)):
        assert_close(a, b.detach(), level)
    assert_close(grads[1], x.grad.permute(0, 2, 3, 1), "image")
    jax.tree_util.tree_map_with_path(lambda path, a, b: assert_close(a, b, path), grads[0], expected)
    init = jax.eval_shape(lambda: ConvNeXt(DEPTHS, WIDTH).init(jax.random.key(0), image, True))
    assert jax.tree.map(jnp.shape, dict(init["params"])) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    # Published models without their classifiers: 28.6 and 50.2 million (table 9 of the paper: 29M
    # and 50M).
    [("convnext_tiny", 96, 27_820_128), ("convnext_small", 96, 49_454_688), ("convnext_pico", 64, None)],
)
def test_registered_variants(name, width, parameters):
    image = jax.ShapeDtypeStruct((2, 128, 96, 3), jnp.float32)
    out, variables = jax.eval_shape(lambda x: ENCODERS[name]().init_with_output(jax.random.key(0), x, True), image)
    levels = [(2, 128 // s, 96 // s, width * s // 4) for s in (4, 8, 16, 32)]
    assert [level.shape for level in out.pyramid] == levels
    assert out.pooled.shape == (2, 8 * width) and out.pooled.dtype == jnp.float32
    assert set(variables) == {"params"} and {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert parameters in (None, sum(x.size for x in jax.tree.leaves(variables)))
    narrow = ENCODERS[name](width=16, dtype=jnp.bfloat16)
    assert (narrow.width, narrow.dtype) == (16, jnp.bfloat16)


def with_layer_scale_one(params):
    """Layer scales of 1: with their initial value of 1e-6 the blocks have almost no effect."""
    return {k: {**v, "scale": jnp.ones_like(v["scale"])} if "block" in k else v for k, v in params.items()}


def test_bfloat16_is_close_to_float32_and_examples_do_not_mix():
    image = draw(3, 64, 40, 1) + 100  # far from zero, where a LayerNorm with statistics in bfloat16 would show
    full, half = (ConvNeXt(DEPTHS, WIDTH, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    variables = {
        "params": with_layer_scale_one(jax.jit(full.init, static_argnums=2)(jax.random.key(0), image, False)["params"])
    }
    full_out, half_out = (jax.jit(m.apply, static_argnums=2)(variables, image, False) for m in (full, half))
    assert {x.dtype for x in half_out.pyramid} == {jnp.dtype(jnp.bfloat16)} and half_out.pooled.dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(half_out), jax.tree.leaves(full_out), strict=True):
        assert 0 < np.linalg.norm(a - b) / np.linalg.norm(b) < 0.03
    alone = [full.apply(variables, image[i : i + 1], False).pooled[0] for i in (2, 0)]
    np.testing.assert_allclose(alone, full_out.pooled[np.array([2, 0])], rtol=1e-4, atol=1e-5)


def test_drop_path_drops_or_doubles_the_block_of_an_example():
    x = draw(16, 4, 4, 3)
    block = ConvNeXtBlock(drop_path=0.5)
    params = block.init(jax.random.key(0), x, False)["params"]
    variables = {"params": {**params, "scale": jnp.ones(3)}}
    branch = block.apply(variables, x, False) - x  # in evaluation nothing is dropped and no rng is needed
    added = block.apply(variables, x, True, rngs={"draws": jax.random.key(0)}) - x
    factors = []
    for a, b in zip(np.asarray(added), np.asarray(branch), strict=True):
        factors.append(2.0 if a.any() else 0.0)
        np.testing.assert_allclose(a, factors[-1] * b, atol=1e-5)
    assert 4 <= factors.count(0.0) <= 12
    other = block.apply(variables, x, True, rngs={"draws": jax.random.key(1)}) - x
    assert not np.allclose(added, other)


def test_drop_path_grows_linearly_and_needs_an_rng_only_above_zero():
    image = draw(1, 32, 32, 1)
    plain, dropping = ConvNeXt(DEPTHS, WIDTH), ConvNeXt(DEPTHS, WIDTH, drop_path=0.4)
    variables = plain.init(jax.random.key(0), image, True)
    plain.apply(variables, image, True)
    with pytest.raises(Exception, match="draws"):
        dropping.apply(variables, image, True)
    rates = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        out = dropping.apply(variables, image, False)
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(out.pooled, plain.apply(variables, image, False).pooled)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_drop_path_outside_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match=r"drop_path=.* is a probability"):
        ConvNeXt(DEPTHS, WIDTH, drop_path=rate).init(jax.random.key(0), draw(1, 32, 32, 1), False)


def test_convnext_in_a_segmenter():
    """Logits at the image size, also an odd one; all parameters but the last norm get a gradient;
    layer-wise rates.
    """
    image = draw(2, 29, 32, 1)
    model = Segmenter(ConvNeXt((1, 1), WIDTH), UNetDecoder((4, 4)), n_classes=4)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), image, False)

    def loss(params):
        (logits, _), _ = model.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
        return jnp.square(logits).mean(), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert logits.shape == (2, 29, 32, 4)
    for name, module in grads["encoder"].items():
        for path, grad in jax.tree_util.tree_leaves_with_path(module):
            assert np.isfinite(grad).all() and grad.any() == (name != "norm"), (name, path)
    levels = model.encoder.levels
    scales = layer_scales(variables["params"], levels, decay=0.5)["encoder"]
    depth = {name: {-np.log2(s) for s in jax.tree.leaves(module)} for name, module in scales.items()}
    assert depth["norm"] == {0} and depth["stem_conv"] == depth["stem_norm"] == {3}
    assert depth["stage2_block1"] == depth["stage2_down_conv"] == {1} and depth["stage1_block1"] == {2}
