"""What all encoders and decoders have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.convnext import ConvNeXt
from morphojax.models.encoders import DECODERS, ENCODERS, fields_of
from morphojax.models.resnet import BasicBlock, Bottleneck, ResNet
from morphojax.models.swin import SwinTransformer
from morphojax.models.towers import Segmenter
from morphojax.models.unet_encoder import UNetEncoder
from morphojax.models.vit import VisionTransformer

TINY = {
    "resnet": ResNet((1, 1), BasicBlock, width=8),
    "resnet_group": ResNet((1, 1), Bottleneck, width=8, norm="group"),
    "unet": UNetEncoder(width=4, levels=3),
    "convnext": ConvNeXt((1, 1), width=8, drop_path=0.5),
    "swin": SwinTransformer((2, 1), (2, 2), width=8, window=4, drop_path=0.5),
    "vit": VisionTransformer(width=8, depth=2, heads=2, patch=8, drop_path=0.5),
    "vit_published": VisionTransformer(width=8, depth=2, heads=2, patch=8, image_size=16, taps=(1, 2)),
}
IMAGE = np.random.default_rng(0).standard_normal((4, 32, 32, 1), np.float32)


def variables_of(encoder):
    return {"batch_stats": {}, **jax.jit(encoder.init, static_argnums=2)(jax.random.key(0), IMAGE, False)}


# The two in the heavier run share their blocks with others.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("vit", "resnet_group") else n for n in TINY]
)
def test_rematerialisation_changes_no_value_no_gradient_and_no_name(name):
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
def test_bfloat16_computes_close_to_float32_with_parameters_in_float32(name):
    half = TINY[name].clone(dtype=jnp.bfloat16)
    variables = variables_of(half)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    full, low = (jax.jit(m.apply, static_argnums=2)(variables, IMAGE, False) for m in (TINY[name], half))
    assert {x.dtype for x in low.pyramid} == {jnp.dtype(jnp.bfloat16)} and low.pooled.dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(low), strict=True):
        assert 0 < np.linalg.norm(np.float32(b) - a) / np.linalg.norm(a) < 0.05


@pytest.mark.parametrize("name", ["convnext", "swin", "vit"])
def test_stochastic_depth_draws_in_training_alone(name):
    encoder, variables = TINY[name], variables_of(TINY[name])
    # ConvNeXt's layer scale starts near zero, where its blocks hardly count.
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


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_under_every_decoder(name, decoder):
    """By their shapes alone; with a group norm where there is the choice, nothing has running statistics."""
    fields = {"norm": "group"} if "norm" in fields_of(name) else {}
    encoder = ENCODERS[name](width=12, **fields)
    model = Segmenter(encoder, DECODERS[decoder](widths=(4, 4, 8, 8), norm="group"), n_classes=4, measures=1)
    image = jax.ShapeDtypeStruct((2, 64, 96, 1), jnp.float32)
    (logits, _), variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, False), image)
    assert logits.shape == (2, 64, 96, 4) and set(variables) == {"params"}
