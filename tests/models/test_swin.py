"""Swin against transformers' SwinModel with the same weights; its windows, stochastic depth, and a
segmenter with it.
"""

import json
import os
import subprocess
import sys

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from morphojax.models.encoders import ENCODERS
from morphojax.models.swin import PatchMerging, SwinBlock, SwinTransformer, relative_index, shift_mask
from morphojax.models.towers import Segmenter
from morphojax.models.unet import UNetDecoder

RNG = np.random.default_rng(0)
SMALL = SwinTransformer(depths=(1, 2), heads=(1, 2), width=8, window=4)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


def variables_of(module, image):
    """Random values for all variables of a module, large enough to matter; compiles nothing."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, False))
    return jax.tree.map(lambda x: normal(*x.shape) * 0.3, shapes)


def value(p):
    return p.detach().numpy().copy()


def applied(module, variables, image, train=False, **rngs):
    return jax.jit(lambda v, x: module.apply(v, x, train, rngs=rngs))(variables, image)


def torch_swin(encoder, channels, height, width):
    """transformers' SwinModel, every parameter drawn at random.

    If a window shrinks, transformers fails because of a bias of the wrong size; the published code
    builds a smaller table. Here transformers gets the middle of the larger table.
    """
    torch = pytest.importorskip("torch", reason="the oracle for Swin needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="the oracle for Swin needs transformers")
    config = transformers.SwinConfig(
        num_channels=channels,
        embed_dim=encoder.width,
        depths=encoder.depths,
        num_heads=encoder.heads,
        window_size=encoder.window,
        drop_path_rate=0.0,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.SwinModel(config)
    for name, parameter in model.named_parameters():
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, scale, 1.0 if "bias_table" in name else 0.2)
    for stage, layer in enumerate(model.encoder.layers):
        smaller = min(-(-side // (4 * 2**stage)) for side in (height, width))
        if smaller < encoder.window:
            for block in layer.blocks:
                block.attention.relative_position_bias = shrunk(block.attention.relative_position_bias, smaller)
    return model


def shrunk(bias, size):
    import torch

    class Shrunk(type(bias)):
        def forward(self):
            side, cut = 2 * self.full - 1, self.full - size
            table = self.relative_position_bias_table.view(side, side, -1)
            middle = table[cut : side - cut, cut : side - cut].flatten(0, 1)
            return middle[self.relative_position_index].view(size**2, size**2, -1).permute(2, 0, 1)[None]

    new = Shrunk(bias.relative_position_bias_table.shape[1], (size, size))
    new.full = bias.window_size[0]
    new.relative_position_bias_table = torch.nn.Parameter(bias.relative_position_bias_table)
    return new


def convert(model, read):
    """transformers' parameters in our names."""

    def linear(layer):
        return {"kernel": read(layer.weight).T, "bias": read(layer.bias)}

    def norm(layer):
        return {"scale": read(layer.weight), "bias": read(layer.bias)}

    def block(layer):
        a = layer.attention
        heads, size = a.num_attention_heads, a.head_dim
        attention = {}
        for name, projection in (("query", a.q_proj), ("key", a.k_proj), ("value", a.v_proj)):
            p = linear(projection)
            attention[name] = {"kernel": p["kernel"].reshape(-1, heads, size), "bias": p["bias"].reshape(heads, size)}
        out = linear(a.o_proj)
        attention["out"] = {"kernel": out["kernel"].reshape(heads, size, -1), "bias": out["bias"]}
        return {
            "attention_norm": norm(layer.layernorm_before),
            "attention": attention,
            "relative_position_bias": read(a.relative_position_bias.relative_position_bias_table),
            "mlp_norm": norm(layer.layernorm_after),
            "dense1": linear(layer.mlp.fc1),
            "dense2": linear(layer.mlp.fc2),
        }

    conv = model.embeddings.patch_embeddings.projection
    params = {
        "patch_embedding": {"kernel": read(conv.weight).transpose(2, 3, 1, 0), "bias": read(conv.bias)},
        "patch_norm": norm(model.embeddings.norm),
        "norm": norm(model.layernorm),
    }
    for s, layer in enumerate(model.encoder.layers, start=1):
        for b, torch_block in enumerate(layer.blocks, start=1):
            params[f"stage{s}_block{b}"] = block(torch_block)
        if layer.downsample is not None:
            reduction = {"kernel": read(layer.downsample.reduction.weight).T}
            params[f"stage{s + 1}_merge"] = {"norm": norm(layer.downsample.norm), "reduction": reduction}
    return params


def torch_run(model, image):
    """transformers' pooled features, and the output of each stage before patches are merged."""
    import torch

    out = model(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        output_hidden_states=True,
        output_hidden_states_before_downsampling=True,
    )
    return out.pooler_output, [x.permute(0, 2, 3, 1) for x in out.reshaped_hidden_states[1:]]


def assert_equals_torch(ours, pooled, pyramid):
    assert [x.shape for x in ours.pyramid] == [tuple(x.shape) for x in pyramid]
    for a, b in zip((ours.pooled, *ours.pyramid), (pooled, *pyramid), strict=True):
        b = value(b)
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 64, 64), (3, 96, 128), (1, 112, 112)])
def test_equals_pytorch(channels, height, width):
    """Windows with and without padding and shift, and windows shrunk to 6, 4, 3 and 2 positions."""
    encoder = SwinTransformer(depths=(1, 2, 1, 1), heads=(1, 2, 4, 4), width=8)
    model = torch_swin(encoder, channels, height, width).eval()
    image = normal(2, height, width, channels)
    params = convert(model, value)
    ours = applied(encoder, {"params": params}, image)
    assert_equals_torch(ours, *torch_run(model, image))
    assert ours.pyramid[0].shape == (2, height // 4, width // 4, 8) and ours.pooled.shape == (2, 64)
    init = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, False))
    chex.assert_trees_all_equal_shapes(dict(init["params"]), params)


def test_gradients_equal_pytorch():
    """For every parameter, with padding in every part: image 23x26, maps 6x7 (shifted windows of 4)
    and 3x4 (windows of 3).
    """
    encoder = SwinTransformer(depths=(2, 1), heads=(2, 4), width=8, window=4)
    model = torch_swin(encoder, 2, 23, 26).eval()
    import torch

    image = normal(2, 23, 26, 2)
    reference = torch_run(model, image)
    targets = [normal(*x.shape) for x in (reference[0], *reference[1])]
    sum((x * torch.from_numpy(t)).sum() for x, t in zip((reference[0], *reference[1]), targets, strict=True)).backward()
    expected = convert(model, lambda p: p.grad.numpy().copy())

    def loss(params):
        features = encoder.apply({"params": params}, image, True)
        return sum((x * t).sum() for x, t in zip((features.pooled, *features.pyramid), targets, strict=True)), features

    grads, features = jax.jit(jax.grad(loss, has_aux=True))(convert(model, value))
    assert_equals_torch(features, *reference)
    chex.assert_trees_all_equal_structs(dict(grads), expected)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for (path, grad), other in zip(jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected), strict=True):
        # The gradient of the key bias is rounding error only: softmax cancels this bias.
        atol = 1e-4 * np.abs(other).max() + 1e-6 * largest
        np.testing.assert_allclose(grad, other, atol=atol, rtol=0, err_msg=str(path))


def attend(block, params, x):
    """The attention of a block in loops of float64: [H,W,D] -> [H,W,D], for a map that needs no
    padding.
    """
    height, width, c = x.shape
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    y = (x - mean) / np.sqrt(var + 1e-5) * p["attention_norm"]["scale"] + p["attention_norm"]["bias"]
    q, k, v = (
        np.einsum("hwc,cnd->hwnd", y, p["attention"][n]["kernel"]) + p["attention"][n]["bias"]
        for n in ("query", "key", "value")
    )
    table = p["relative_position_bias"].reshape(2 * block.window - 1, 2 * block.window - 1, block.heads)

    def window_of(place):
        # Windows begin at shift, shift + window, ...; the positions before the first form a smaller
        # window.
        return tuple((i - block.shift) // block.window for i in place)

    out = np.zeros_like(x)
    places = list(np.ndindex(height, width))
    for i, j in places:
        seen = [place for place in places if window_of(place) == window_of((i, j))]
        mixed = np.zeros((block.heads, c // block.heads))
        for n in range(block.heads):
            score = [
                q[i, j, n] @ k[a, b, n] / np.sqrt(c // block.heads)
                + table[i - a + block.window - 1, j - b + block.window - 1, n]
                for a, b in seen
            ]
            weight = np.exp(score) / np.exp(score).sum()
            mixed[n] = sum(w * v[a, b, n] for w, (a, b) in zip(weight, seen, strict=True))
        out[i, j] = np.einsum("nd,ndc->c", mixed, p["attention"]["out"]["kernel"]) + p["attention"]["out"]["bias"]
    return out


@pytest.mark.parametrize("shift", [0, 1])
def test_windowed_attention_against_loops(shift):
    """Shifted windows form a grid that begins at `shift`: positions that the roll brings together
    do not interact.
    """
    block = SwinBlock(heads=2, window=3, shift=shift)
    x = normal(1, 6, 9, 4)
    params = variables_of(block, x)["params"]
    params["dense2"] = jax.tree.map(np.zeros_like, params["dense2"])  # no MLP
    ours = applied(block, {"params": params}, x)
    np.testing.assert_allclose(ours[0] - x[0], attend(block, params, x[0].astype(np.float64)), atol=1e-5)


def test_shift_mask_and_relative_index_by_hand():
    mask = shift_mask(2, 4, 2, 1)  # one row of two windows; the first row and the first column come last
    assert mask.shape == (2, 1, 4, 4)
    np.testing.assert_array_equal(mask[1, 0], np.eye(4, dtype=bool))
    np.testing.assert_array_equal(mask[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    index = relative_index(2, 2)
    assert index[0, 0] == 4 and index[0, 1] == 3 and index[1, 0] == 5 and index[0, 2] == 1 and index[3, 0] == 8
    table = np.arange(25).reshape(5, 5)
    np.testing.assert_array_equal(table[1:4, 1:4].ravel()[index], table.ravel()[relative_index(3, 2)])


def test_merging_order():
    """The order within a 2x2 block is column by column; zeros pad an odd side."""
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1) + 1
    merge = PatchMerging()
    params = {"norm": {"scale": np.ones(4), "bias": np.zeros(4)}, "reduction": {"kernel": np.eye(4)[:, [0, 1]]}}
    blocks = np.array([[1, 4, 2, 5], [3, 6, 0, 0]], np.float32)
    expected = (blocks - blocks.mean(1, keepdims=True)) / np.sqrt(blocks.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(merge.apply({"params": params}, x)[0, 0], expected[:, :2], rtol=1e-5)


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_drop_path_drops_or_scales_a_part_of_an_example(part):
    block = SwinBlock(heads=1, window=2, drop_path=0.25)
    x = np.repeat(normal(1, 2, 4, 4), 64, 0)
    params = variables_of(block, x)["params"]
    other = params["dense2"] if part == "attention" else params["attention"]["out"]
    other.update(jax.tree.map(np.zeros_like, other))
    branch = applied(block, {"params": params}, x) - x
    out = applied(block, {"params": params}, x, True, draws=jax.random.key(1)) - x
    kept = np.abs(out).max((1, 2, 3)) > 0
    np.testing.assert_allclose(out[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-5)
    assert 0.55 < kept.mean() < 0.95
    again = applied(block, {"params": params}, x, True, draws=jax.random.key(2)) - x
    assert not np.array_equal(kept, np.abs(again).max((1, 2, 3)) > 0)


def test_the_two_parts_of_a_block_are_dropped_independently():
    block = SwinBlock(heads=1, window=2, drop_path=0.5)
    x = np.repeat(normal(1, 2, 2, 4), 32, 0)
    params = variables_of(block, x)["params"]
    out = applied(block, {"params": params}, x, True, draws=jax.random.key(1))
    assert len(np.unique(np.round(out, 4).reshape(32, -1), axis=0)) == 4


def test_drop_path_grows_with_depth_and_draws_only_in_training():
    encoder = SMALL.clone(depths=(2, 2), drop_path=0.3)
    image = normal(1, 16, 16, 1)
    rates = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, SwinBlock) and context.method_name == "__call__":
            rates.append(context.module.drop_path)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, False))
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])
    jax.eval_shape(lambda v: encoder.apply(v, image, False), variables)
    jax.eval_shape(lambda v: encoder.clone(drop_path=0.0).apply(v, image, True), variables)
    with pytest.raises(flax.errors.InvalidRngError, match="draws"):
        jax.eval_shape(lambda v: encoder.apply(v, image, True), variables)
    jax.eval_shape(lambda v: encoder.apply(v, image, True, rngs={"draws": jax.random.key(0)}), variables)


def test_drop_path_is_off_in_evaluation_and_by_default():
    image = normal(2, 16, 16, 1)
    variables = variables_of(SMALL, image)

    def program(drop_path, train):
        encoder, rngs = SMALL.clone(drop_path=drop_path), {"draws": jax.random.key(0)}
        return str(jax.make_jaxpr(lambda v: encoder.apply(v, image, train, rngs=rngs))(variables))

    plain = program(0.0, False)
    assert program(0.5, False) == plain and program(0.0, True) == plain and program(0.5, True) != plain


def test_bfloat16_is_close_to_float32():
    image = normal(2, 40, 24, 1)  # padded, shifted and shrunk windows
    variables = variables_of(SMALL, image)
    half = SMALL.clone(dtype=jnp.bfloat16)
    full_out, half_out = (applied(m, variables, image) for m in (SMALL, half))
    assert {x.dtype for x in half_out.pyramid} == {jnp.dtype(jnp.bfloat16)} and half_out.pooled.dtype == jnp.float32
    init = jax.eval_shape(lambda: half.init(jax.random.key(0), image, False))
    assert {x.dtype for x in jax.tree.leaves(init)} == {jnp.dtype(jnp.float32)}
    for a, b in zip(jax.tree.leaves(full_out), jax.tree.leaves(half_out), strict=True):
        assert 0 < np.linalg.norm(np.float32(b) - a) / np.linalg.norm(a) < 0.03


@pytest.mark.parametrize(("name", "width"), [("swin_tiny", 96), ("swin_micro", 32)])
def test_registered_encoders(name, width):
    encoder = ENCODERS[name](width=width, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 128, 96, 3), jnp.float32)
    features, variables = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, True), image)
    assert [f.shape for f in features.pyramid] == [(2, 128 // s, 96 // s, width * s // 4) for s in (4, 8, 16, 32)]
    assert features.pooled.shape == (2, 8 * width) and features.pooled.dtype == jnp.float32
    if name == "swin_tiny":  # published: 28,288,354 with the 769,000 of the classifier
        assert sum(x.size for x in jax.tree.leaves(variables)) == 27_519_354


def test_parameters_do_not_depend_on_the_image_size():
    shapes = [
        jax.eval_shape(lambda s=s: SMALL.init(jax.random.key(0), jnp.zeros((1, *s, 1)), False))
        for s in ((4, 4), (3, 50), (64, 96))
    ]
    chex.assert_trees_all_equal_shapes(*shapes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 9}, "2 heads do not divide the 9 channels of stage 1: change width=9"),
        ({"heads": (2, 2, 2)}, "different numbers of stages"),
        ({"window": 0}, "window=0"),
        ({"drop_path": 1.0}, "drop_path=1.0 is a probability"),
        ({"drop_path": float("nan")}, "drop_path=nan"),
    ],
)
def test_wrong_fields_are_refused_when_traced(fields, message):
    encoder = SwinTransformer(**{"depths": (1, 1), "heads": (2, 2), "width": 8, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)), False))


def test_swin_in_a_segmenter():
    """On an image of an odd size; the encoder's features reach the logits."""
    model = Segmenter(SMALL, UNetDecoder(widths=(4, 8)), n_classes=4)
    image = normal(2, 35, 30, 1)
    variables = jax.tree.map(np.abs, variables_of(model, image))  # a running variance is positive
    assert set(variables["params"]) == {"encoder", "decoder", "head"}
    apply = jax.jit(lambda v, x: model.apply(v, x, False)[0])
    logits = apply(variables, image)
    assert logits.shape == (2, 35, 30, 4) and logits.dtype == jnp.float32 and np.isfinite(logits).all()
    variables["params"]["encoder"] = variables_of(SMALL, image)["params"]
    assert not np.allclose(apply(variables, image), logits)


def on_four_devices():
    """The largest differences of features and gradients between several devices and one. Run in a
    subprocess, see below.
    """
    encoder = SwinTransformer(depths=(2,), heads=(2,), width=4, window=2, drop_path=0.5)
    image, key = normal(8, 20, 12, 1), jax.random.key(3)  # a map of 5x3
    variables = variables_of(encoder, image)

    def loss(variables, image):
        features = encoder.apply(variables, image, True, rngs={"draws": key})
        return sum(jnp.square(x).sum() for x in features.pyramid), features

    step = jax.jit(jax.grad(loss, has_aux=True))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = step(
        jax.device_put(variables, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(image, NamedSharding(mesh, PartitionSpec("data"))),
    )
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(spread))
    gap = max(
        jax.tree.leaves(
            jax.tree.map(lambda a, b: float(np.abs(np.array(a) - np.array(b)).max()), step(variables, image), spread)
        )
    )
    print(json.dumps({"gap": gap / scale, "sharding": str(spread[1].pooled.sharding.spec)}))


def test_features_and_gradients_over_four_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    code = "from tests.models.test_swin import on_four_devices; on_four_devices()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["gap"] < 1e-5 and "data" in result["sharding"], result
