"""Properties that all encoders and decoders share."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.convnext import ConvNeXt
from morphojax.models.encoders import DECODERS, ENCODERS, encoder_options, has_norm
from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet
from morphojax.models.swin import SwinTransformer
from morphojax.models.towers import PlaneEncoders, Segmenter
from morphojax.models.unet_encoder import UNetEncoder
from morphojax.models.vit import VisionTransformer

TINY = {
    "resnet": ResNet((1, 1), BasicBlock, width=8),
    "resnet_group": ResNet((1, 1), Bottleneck, width=8, norm="group"),
    "unet": UNetEncoder(width=4, stages=3),
    "convnext": ConvNeXt((1, 1), width=8, drop_path=0.5),
    "swin": SwinTransformer((2, 1), (2, 2), width=8, window=4, drop_path=0.5),
    "vit": VisionTransformer(width=8, depth=2, heads=2, patch=8, drop_path=0.5),
    "vit_published": VisionTransformer(width=8, depth=2, heads=2, patch=8, image_size=16, taps=(1, 2)),
}
IMAGE = np.random.default_rng(0).standard_normal((4, 32, 32, 1), np.float32)


def variables_of(encoder):
    return {"batch_stats": {}, **jax.jit(encoder.init, static_argnums=2)(jax.random.key(0), IMAGE, False)}


# The slow ones share their blocks with others.
@pytest.mark.parametrize("name", [n if n == "resnet" else pytest.param(n, marks=pytest.mark.slow) for n in TINY])
def test_remat_changes_no_value_gradient_or_parameter_name(name):
    """In training, stochastic depth and batch statistics included."""
    plain = TINY[name]
    again = plain.clone(remat=True)
    variables = variables_of(plain)
    shapes = jax.eval_shape(lambda: again.init(jax.random.key(0), IMAGE, False))
    assert jax.tree.map(np.shape, dict(shapes["params"])) == jax.tree.map(np.shape, dict(variables["params"]))

    def loss(params, encoder):
        features, updated = encoder.apply(
            {**variables, "params": params}, IMAGE, True, mutable=["batch_stats"], rngs={"draws": jax.random.key(1)}
        )
        total = sum(jnp.square(x[..., :3]).mean() for x in jax.tree.leaves(features))
        return total, updated

    one, two = (
        jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(variables["params"], m)
        for m in (plain, again)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, two)
    assert "remat" not in str(jax.make_jaxpr(lambda p: loss(p, plain)[0])(variables["params"]))
    assert "remat" in str(jax.make_jaxpr(lambda p: loss(p, again)[0])(variables["params"]))


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters(name):
    half = TINY[name].clone(dtype=jnp.bfloat16)
    variables = variables_of(half)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    full, low = (jax.jit(m.apply, static_argnums=2)(variables, IMAGE, False) for m in (TINY[name], half))
    assert {x.dtype for x in low.pyramid} == {jnp.dtype(jnp.bfloat16)} and low.pooled.dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(low), strict=True):
        assert 0 < np.linalg.norm(np.float32(b) - a) / np.linalg.norm(a) < 0.05


@pytest.mark.parametrize("name", ["convnext", "swin", "vit"])
def test_stochastic_depth_is_random_only_in_training(name):
    encoder, variables = TINY[name], variables_of(TINY[name])
    # ConvNeXt's layer scale starts near zero, where its blocks have almost no effect.
    variables["params"] = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.ones_like(x) if np.all(x == x.ravel()[0]) and "scale" in str(path) else x,
        variables["params"],
    )

    def pooled(train, seed):
        apply = jax.jit(encoder.apply, static_argnums=2)
        return apply(variables, IMAGE, train, rngs={"draws": jax.random.key(seed)}).pooled

    np.testing.assert_array_equal(pooled(False, 1), pooled(False, 2))
    np.testing.assert_array_equal(pooled(True, 1), pooled(True, 1))
    assert not np.allclose(pooled(True, 1), pooled(True, 2), atol=1e-3)


DEEP = ("resnet34", "resnet50", "convnext_tiny", "convnext_small", "vit_small", "vit_base_16", "swin_tiny", "unet")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in ENCODERS])
def test_every_encoder_with_every_decoder(name, decoder):
    """Shapes only; the slow ones are deeper members of the same families. With group normalisation,
    or an encoder without a norm to choose, there are no running statistics.
    """
    fields = {"norm": "group"} if has_norm(name) else {}
    encoder = ENCODERS[name](width=12, **fields)
    model = Segmenter(encoder, DECODERS[decoder](widths=(4, 4, 8, 8), norm="group"), n_classes=4, measures=1)
    image = jax.ShapeDtypeStruct((2, 64, 96, 1), jnp.float32)
    (logits, _), variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, False), image)
    assert logits.shape == (2, 64, 96, 4) and set(variables) == {"params"}


@pytest.mark.parametrize("name", ENCODERS)
def test_levels_cover_the_encoder_from_input_to_output(name):
    encoder = ENCODERS[name](width=12)
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    params = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), image)["params"]
    without_level = {"norm", "pyramid"}
    assert set(params) - without_level == set(encoder.levels)
    order = [level for level, _ in itertools.groupby(encoder.levels.values())]
    stem = [level for level in order if level == "stem"]
    kind = "block" if "block1" in order else "stage"
    assert order == stem + [f"{kind}{i}" for i in range(1, len(order) - len(stem) + 1)]


@pytest.mark.parametrize(
    ("decoder", "order"), [("unet", ["level1", "level0"]), ("mlp", ["level2", "level1", "level0", "fuse"])]
)
def test_levels_cover_the_decoder_from_input_to_output(decoder, order):
    """With a condition, and a pyramid of three maps."""
    module = DECODERS[decoder](widths=(4, 4))
    maps = tuple(jnp.zeros((1, side, side, 3)) for side in (16, 8, 4, 2))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), maps, False, jnp.zeros((1, 2))))["params"]
    levels = {name: level for name, level in module.levels.items() if name in params}
    assert set(levels) == set(params)
    assert list(dict.fromkeys(levels.values())) == order


def test_levels_of_one_encoder_hold_for_every_plane():
    one = TINY["resnet"]
    model = PlaneEncoders({"sax": one, "la_2ch": one.clone()}, ("sax", "la_2ch"))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, False))["params"]
    assert set(params) == {"encoders_sax", "encoders_la_2ch"}
    assert all(set(module) == set(model.levels) for module in params.values())


def test_options_of_an_encoder():
    assert encoder_options("resnet18") == ("remat",)
    assert encoder_options("convnext_pico") == ("drop_path", "remat")
    assert encoder_options("vit_tiny") == ("patch", "image_size", "taps", "drop_path", "remat")
    assert encoder_options("swin_micro") == ("mlp_ratio", "drop_path", "remat")
