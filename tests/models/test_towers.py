import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.features import Features
from morphojax.models.layers import BatchNorm
from morphojax.models.towers import Segmenter, SlicePool, fill_masked
from morphojax.models.unet import UNetDecoder

RNG = np.random.default_rng(0)
MASK = jnp.array([[True, True, True], [True, False, False], [False, True, True], [True, True, False]])


class TinyEncoder(nn.Module):
    """A convolution, BatchNorm and a pyramid."""

    @nn.compact
    def __call__(self, image, train):
        x = nn.relu(BatchNorm()(nn.Conv(6, (3, 3), 2)(image), train))
        return Features((x,), x.mean((1, 2)))


def test_fill_masked_repeats_the_subjects_own_slices():
    slices = jnp.arange(20.0).reshape(4, 5)
    mask = jnp.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    expected = [[0, 1, 2, 3, 4], [6, 6, 8, 8, 6], [10, 10, 10, 10, 10], [15, 16, 17, 18, 19]]
    np.testing.assert_array_equal(fill_masked(slices, mask), expected)


def test_mean_pooling_is_the_mean_of_the_valid_slices():
    features = jnp.asarray(RNG.standard_normal((4, 3, 2)), jnp.float32)
    out = SlicePool("mean").apply({}, features, MASK)
    expected = [np.asarray(f)[np.asarray(m)].mean(0) for f, m in zip(features, MASK, strict=True)]
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    np.testing.assert_array_equal(SlicePool("mean").apply({}, features, jnp.zeros((4, 3), bool)), 0)


def test_attention_pooling_against_its_formula():
    features = jnp.asarray(RNG.standard_normal((4, 3, 2)), jnp.float32)
    out, variables = SlicePool("attention", hidden=7).init_with_output(jax.random.key(0), features, MASK)
    p = jax.tree.map(np.asarray, variables["params"])
    for f, m, o in zip(np.asarray(features), np.asarray(MASK), out, strict=True):
        score = np.tanh(f[m] @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["score"]["kernel"][:, 0]
        weight = np.exp(score) / np.exp(score).sum()
        np.testing.assert_allclose(o, weight @ f[m], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'mean' or 'attention', not 'max'"):
        SlicePool("max").init(jax.random.key(0), features, MASK)


def segmenter():
    image = jnp.asarray(RNG.standard_normal((2, 32, 32, 1)), jnp.float32)
    model = Segmenter(TinyEncoder(), UNetDecoder(widths=(4, 4)), n_classes=4)
    return model, image, jax.jit(model.init, static_argnames="train")(jax.random.key(0), image, train=False)


def test_frozen_encoder_gets_no_gradient_and_no_new_statistics():
    """It uses its running statistics; the decoder learns."""
    model, image, variables = segmenter()
    variables = {**variables, "batch_stats": jax.tree.map(lambda x: x + 0.1, variables["batch_stats"])}

    def loss(params, train_encoder):
        out, new = model.apply(
            {**variables, "params": params}, image, True, train_encoder=train_encoder, mutable=["batch_stats"]
        )
        return jnp.square(out[0]).sum(), new["batch_stats"]

    grad = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    grads, stats = grad(variables["params"], False)
    assert all((g == 0).all() for g in jax.tree.leaves(grads["encoder"]))
    assert any((g != 0).any() for g in jax.tree.leaves(grads["decoder"]))
    chex.assert_trees_all_equal(stats["encoder"], variables["batch_stats"]["encoder"])
    assert not np.array_equal(*(jax.tree.leaves(s["decoder"])[0] for s in (stats, variables["batch_stats"])))

    grads, stats = grad(variables["params"], None)
    assert any((g != 0).any() for g in jax.tree.leaves(grads["encoder"]))
    assert not np.array_equal(*(jax.tree.leaves(s["encoder"])[0] for s in (stats, variables["batch_stats"])))


def test_segmenter_logits_and_names():
    model, image, variables = segmenter()
    logits, predicted = model.apply(variables, image, False)
    assert predicted.shape == (2, 0)
    assert logits.shape == (2, 32, 32, 4) and logits.dtype == jnp.float32
    assert model.apply(variables, image[:, :31, :29], False)[0].shape == (2, 31, 29, 4)
    assert set(variables["params"]) == {"encoder", "decoder", "head"}
    bfloat16 = Segmenter(TinyEncoder(), UNetDecoder((4, 4), jnp.bfloat16), n_classes=4)
    half, _ = bfloat16.apply(variables, image, False)
    assert half.dtype == jnp.float32
    assert 0 < np.linalg.norm(half - logits) / np.linalg.norm(logits) < 0.05


def test_conditioned_decoder():
    """No effect at first, an effect once FiLM has weights; no gradient flows from the segmentation
    to the predictions.
    """
    model, image, plain = segmenter()
    conditioned = Segmenter(TinyEncoder(), UNetDecoder(widths=(4, 4)), n_classes=4, measures=3)
    variables = jax.jit(conditioned.init, static_argnames="train")(jax.random.key(0), image, train=False)
    assert set(variables["params"]) == {"encoder", "decoder", "head", "measures_hidden", "measures_head"}
    shared = {**variables["params"], "encoder": plain["params"]["encoder"], "head": plain["params"]["head"]}
    shared["decoder"] = {**variables["params"]["decoder"], **plain["params"]["decoder"]}
    logits, predicted = conditioned.apply({**variables, "params": shared}, image, False)
    np.testing.assert_allclose(logits, model.apply(plain, image, False)[0], rtol=1e-5, atol=1e-6)
    assert predicted.shape == (2, 3)

    with_film = jax.tree.map(lambda x: x, shared)
    film = with_film["decoder"]["level0_film"]
    film["kernel"] = jnp.asarray(RNG.standard_normal(film["kernel"].shape), jnp.float32)

    def loss(params):
        out, measured = conditioned.apply({**variables, "params": params}, image, False)
        return jnp.square(out).sum(), measured

    assert not np.allclose(conditioned.apply({**variables, "params": with_film}, image, False)[0], logits)
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(with_film)
    assert np.abs(grads["decoder"]["level0_film"]["kernel"]).max() > 0
    assert all((g == 0).all() for name in ("measures_hidden", "measures_head") for g in jax.tree.leaves(grads[name]))
