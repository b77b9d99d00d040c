"""The vision transformer against transformers' ViTModel with the same weights, its pyramid, and its
visible patches.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.attention import sine_positions
from morphojax.models.encoders import ENCODERS, supports_masking
from morphojax.models.towers import Segmenter
from morphojax.models.unet import UNetDecoder
from morphojax.models.vit import FeaturePyramid, VisionTransformer, patch_grid

RNG = np.random.default_rng(0)
SMALL = VisionTransformer(width=8, depth=2, heads=2, patch=8)
D = 16


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


def small_variables(image, encoder=SMALL):
    return jax.jit(encoder.init, static_argnums=2)(jax.random.key(0), image, False)


def encode_visible(variables, image, visible, encoder=SMALL):
    return jax.jit(lambda v, x: encoder.apply(v, x, visible, method="encode_visible"))(variables, image)


def torch_vit(channels, **fields):
    """transformers' ViTModel, every parameter drawn at random."""
    torch = pytest.importorskip("torch", reason="the oracle for the vision transformer needs PyTorch")
    transformers = pytest.importorskip(
        "transformers", reason="the oracle for the vision transformer needs transformers"
    )
    config = transformers.ViTConfig(
        **dict(hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4 * D, patch_size=8)
        | fields,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        num_channels=channels,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config, add_pooling_layer=False)
    for name, parameter in model.named_parameters():
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, scale, 0.2)
    return model


def torch_tokens(model, image, visible):
    """The tokens of transformers' model for some patches, with our positions and without its class
    token.
    """
    import torch

    gh, gw = image.shape[1] // 8, image.shape[2] // 8
    x = model.embeddings.patch_embeddings.projection(torch.from_numpy(image).permute(0, 3, 1, 2))
    x = x.flatten(2).transpose(1, 2) + torch.from_numpy(np.array(sine_positions(gh, gw, D)).reshape(-1, D))
    x = torch.stack([row[index] for row, index in zip(x, visible, strict=True)])
    for layer in model.layers:
        x = layer(x, None)
    return model.layernorm(x)


def convert(model, read, positions=False):
    """transformers' parameters in our names, with learned positions and class token if asked
    for.
    """

    def linear(layer):
        return {"kernel": read(layer.weight).T, "bias": read(layer.bias)}

    def norm(layer):
        return {"scale": read(layer.weight), "bias": read(layer.bias)}

    def block(layer):
        a = layer.attention
        attention = {}
        for name, projection in (("query", a.q_proj), ("key", a.k_proj), ("value", a.v_proj)):
            p = linear(projection)
            attention[name] = {"kernel": p["kernel"].reshape(D, 2, D // 2), "bias": p["bias"].reshape(2, D // 2)}
        out = linear(a.o_proj)
        attention["out"] = {"kernel": out["kernel"].reshape(2, D // 2, D), "bias": out["bias"]}
        return {
            "self_norm": norm(layer.layernorm_before),
            "self_attention": attention,
            "mlp_norm": norm(layer.layernorm_after),
            "dense1": linear(layer.mlp.fc1),
            "dense2": linear(layer.mlp.fc2),
        }

    conv = model.embeddings.patch_embeddings.projection
    tokens = {"class_token": model.embeddings.cls_token, "positions": model.embeddings.position_embeddings}
    return {
        **{name: read(p) for name, p in tokens.items() if positions},
        "patch_embedding": {"kernel": read(conv.weight).transpose(2, 3, 1, 0), "bias": read(conv.bias)},
        **{f"block{i}": block(layer) for i, layer in enumerate(model.layers, start=1)},
        "norm": norm(model.layernorm),
    }


@pytest.mark.parametrize("patches", ["all", "some"])
def test_tokens_and_gradients_equal_pytorch(patches):
    """On a grid that is not square; for all patches, and for a few visible ones."""
    model = torch_vit(channels=2)
    import torch

    image = normal(2, 24, 40, 2)
    visible = np.tile(np.arange(15), (2, 1)) if patches == "all" else np.array([[0, 4, 7, 13], [1, 2, 11, 14]])
    reference = torch_tokens(model, image, visible)
    target = normal(*reference.shape)
    (reference * torch.from_numpy(target)).sum().backward()
    params = convert(model, lambda p: p.detach().numpy().copy())

    def loss(params):
        tokens = SMALL.apply({"params": params}, image, visible, method="encode_visible")
        return (tokens * target).sum(), tokens

    grads, tokens = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(tokens, reference.detach(), atol=1e-4)
    expected = convert(model, lambda p: p.grad.numpy().copy())
    tolerance = 1e-4 * max(np.abs(g).max() for g in jax.tree.leaves(expected))
    chex.assert_trees_all_close(grads, expected, atol=tolerance, rtol=0)
    if patches == "all":
        variables = {"params": {**small_variables(image)["params"], **params}}
        features = jax.jit(SMALL.apply, static_argnums=2)(variables, image, False)
        np.testing.assert_allclose(features.pooled, reference.detach().mean(1), atol=1e-4)


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_pyramid_equals_pytorch(patch):
    torch = pytest.importorskip("torch", reason="the oracle for the pyramid needs PyTorch")
    x = normal(2, 5, 3, 8)  # an odd map: its last row is a smaller window
    module = FeaturePyramid(patch)
    init = jax.eval_shape(module.init, jax.random.key(0), 3 * [x])["params"]
    params = jax.tree.map(lambda p: normal(*p.shape), init)
    ours = jax.jit(module.apply)({"params": params}, 3 * [x])

    def norm(y, name):
        p = {k: torch.from_numpy(v) for k, v in params[name].items()}
        y = y.permute(0, 2, 3, 1)
        return torch.nn.functional.layer_norm(y, y.shape[-1:], p["scale"], p["bias"], 1e-6).permute(0, 3, 1, 2)

    def double(y, name):
        kernel = params[name]["kernel"]
        c = kernel.shape[0]
        kernel = kernel.reshape(c, 2, 2, c // 2).transpose(0, 3, 1, 2)
        return torch.nn.functional.conv_transpose2d(y, torch.from_numpy(kernel.copy()), stride=2)

    for stride, level in zip((4, 8, 16), ours, strict=True):
        y, name = torch.from_numpy(x).permute(0, 3, 1, 2), f"stride{stride}"
        if patch >= 2 * stride:
            y = double(y, f"{name}_up1")
        if patch >= 4 * stride:
            y = double(torch.nn.functional.gelu(norm(y, f"{name}_up1_norm")), f"{name}_up2")
        if patch < stride:
            y = torch.nn.functional.max_pool2d(y, stride // patch, ceil_mode=True)
        np.testing.assert_allclose(level, norm(y, f"{name}_norm").permute(0, 2, 3, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "heads"), [("vit_tiny", 3), ("vit_small", 6)])
@pytest.mark.parametrize("width", [32, 64])
def test_registered_encoders_have_their_shapes(name, heads, width):
    image = jax.ShapeDtypeStruct((2, 64, 96, 5), jnp.float32)
    encoder = ENCODERS[name](width=width, dtype=jnp.bfloat16)
    features, variables = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, True), image)
    d = heads * width
    assert [f.shape for f in features.pyramid] == [(2, 16, 24, d // 2), (2, 8, 12, d), (2, 4, 6, d)]
    assert {f.dtype for f in features.pyramid} == {jnp.dtype(jnp.bfloat16)}
    assert (features.pooled.shape, features.pooled.dtype) == ((2, d), jnp.float32)
    assert set(variables) == {"params"} and {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert set(variables["params"]) == {"patch_embedding", *(f"block{i}" for i in range(1, 13)), "norm", "pyramid"}
    assert variables["params"]["patch_embedding"]["kernel"].shape == (8, 8, 5, d)


def test_patch_grid_names_the_sizes_that_fit():
    assert patch_grid(64, 96, 8) == (8, 12)
    with pytest.raises(ValueError, match="100x96 does not divide into patches of 8x8: 96x96 or 104x96 would fit"):
        patch_grid(100, 96, 8)
    with pytest.raises(ValueError, match=r"5x20 .*: 8x16 or 8x24 would fit"):
        patch_grid(5, 20, 8)
    with pytest.raises(ValueError, match=r"5x5 .*: 8x8 would fit"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 5, 5, 1)), False)
    with pytest.raises(ValueError, match="5x5"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 5, 5, 1)), jnp.zeros((1, 1), int), method="encode_visible")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 5, "heads": 2}, "multiple of 4 features, not 10"),
        ({"width": 8, "heads": 2, "patch": 12}, "power of two, not 12"),
    ],
)
def test_wrong_fields_are_refused_when_traced(fields, message):
    encoder, image = VisionTransformer(depth=1, **fields), jnp.zeros((1, 24, 24, 1))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, False))


def test_visible_of_a_wrong_shape_is_refused():
    image = jnp.zeros((2, 16, 16, 1))
    variables = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), image, False))
    for shape in ((2, 5), (2, 0), (1, 3), (2,)):
        visible = jnp.zeros(shape, int)
        with pytest.raises(ValueError, match=r"it must be \[2,V\] with V in 1..4"):
            jax.eval_shape(lambda v, i=visible: SMALL.apply(v, image, i, method="encode_visible"), variables)


def test_any_image_size_and_influence_of_position():
    variables = small_variables(normal(1, 16, 16, 1))
    apply = jax.jit(SMALL.apply, static_argnums=2)
    assert [f.shape[1:3] for f in apply(variables, normal(1, 32, 24, 1), False).pyramid] == [(8, 6), (4, 3), (2, 2)]
    image = normal(1, 16, 16, 1)
    swapped = np.concatenate([image[:, 8:], image[:, :8]], 1)  # without positions the mean would not notice
    assert not np.allclose(apply(variables, image, False).pooled, apply(variables, swapped, False).pooled, atol=1e-3)


def test_train_has_no_effect_without_drop_path():
    image = normal(2, 16, 16, 1)
    variables = small_variables(image)
    apply = jax.jit(SMALL.apply, static_argnums=2)
    jax.tree.map(np.testing.assert_array_equal, apply(variables, image, True), apply(variables, image, False))


def test_only_visible_patches_have_influence():
    """In any order; NaN in masked patches changes nothing."""
    image = normal(2, 16, 24, 1)
    variables = small_variables(image)
    visible = np.array([[0, 2, 5], [1, 3, 4]])
    tokens = encode_visible(variables, image, visible)
    assert tokens.shape == (2, 3, D)
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(encode_visible(variables, image, visible[:, order]), tokens[:, order], atol=1e-5)
    other = image.copy()
    other[0, :8, 8:16] = np.nan  # patch 1 of the first image
    other[1, 8:, 16:] = np.nan  # patch 5 of the second
    np.testing.assert_allclose(encode_visible(variables, other, visible), tokens, atol=1e-6)
    seen = image.copy()
    seen[0, 8:, 16:] += 1  # patch 5 of the first image
    changed = np.abs(encode_visible(variables, seen, visible) - tokens).max((1, 2))
    assert changed[0] > 1e-3 and changed[1] < 1e-6


def test_masked_and_full_encoding_have_the_same_parameters():
    image = normal(1, 16, 16, 1)
    full = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), image, False))["params"]
    visible = jnp.zeros((1, 2), int)
    masked = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), image, visible, method="encode_visible"))["params"]
    assert {"pyramid", *masked} == set(full) and "pyramid" not in masked
    assert {name: full[name] for name in masked} == dict(masked)


def test_pooled_sends_no_gradient_to_the_pyramid():
    image = normal(2, 16, 16, 1)
    params = small_variables(image)["params"]
    grads = jax.jit(jax.grad(lambda p: jnp.square(SMALL.apply({"params": p}, image, True).pooled[:, 0]).sum()))(params)
    assert all(not np.any(g) for g in jax.tree.leaves(grads.pop("pyramid")))
    assert all(np.any(g) for g in jax.tree.leaves(grads["patch_embedding"]))


def test_vit_in_a_segmenter():
    """Every encoder parameter gets a gradient from the logits, except biases that softmax or
    LayerNorm cancels.
    """
    model = Segmenter(SMALL, UNetDecoder(widths=(4, 8, 8)), n_classes=4)
    image = normal(2, 64, 64, 1)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), image, True)

    def loss(params):
        (logits, _), _ = model.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
        return jnp.square(logits).mean(), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert logits.shape == (2, 64, 64, 4) and logits.dtype == jnp.float32 and np.isfinite(logits).all()
    for path, grad in jax.tree_util.tree_leaves_with_path(grads["encoder"]):
        assert np.isfinite(grad).all()
        assert np.any(grad) or "'key'" in str(path), path


def test_channels_of_the_patch_embedding_can_be_shared():
    """As transfer adapts a kernel [y,x,C,D]: a grey image in two channels gives the same tokens as
    in one.
    """
    image = normal(1, 16, 16, 1)
    params = small_variables(image)["params"]
    kernel = params["patch_embedding"]["kernel"]
    shared = {**params["patch_embedding"], "kernel": np.repeat(kernel, 2, 2) / 2}
    apply = jax.jit(SMALL.apply, static_argnums=2)
    one = apply({"params": params}, image, False)
    two = apply({"params": {**params, "patch_embedding": shared}}, np.repeat(image, 2, -1), False)
    assert kernel.shape == (8, 8, 1, D)
    np.testing.assert_allclose(one.pooled, two.pooled, atol=1e-5)


def test_bfloat16_is_close_to_float32():
    image = normal(2, 32, 32, 1)
    variables = small_variables(image)
    half = SMALL.clone(dtype=jnp.bfloat16)
    full_out, half_out = (jax.jit(m.apply, static_argnums=2)(variables, image, False) for m in (SMALL, half))
    assert {x.dtype for x in half_out.pyramid} == {jnp.dtype(jnp.bfloat16)} and half_out.pooled.dtype == jnp.float32
    assert encode_visible(variables, image, np.array([[0, 3]] * 2), half).dtype == jnp.bfloat16
    for a, b in zip(jax.tree.leaves(full_out), jax.tree.leaves(half_out), strict=True):
        assert 0 < np.linalg.norm(np.float32(b) - a) / np.linalg.norm(a) < 0.03


def test_only_vision_transformers_support_masking():
    names = {"vit_tiny", "vit_small", "vit_small_16", "vit_base_16"}
    assert {name for name, build in ENCODERS.items() if supports_masking(build(width=8))} == names
