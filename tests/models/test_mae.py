"""Masked autoencoding: the choice of masked patches, the decoder against slow NumPy, and a small
training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from morphojax.models.mae import PatchDecoder, mask_patches
from morphojax.models.unet import space_to_depth
from morphojax.models.vit import VisionTransformer

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize(
    ("patches", "rate", "masked_count"), [(64, 0.75, 48), (100, 0.9, 90), (7, 0.5, 4), (2, 0.5, 1)]
)
def test_visible_and_masked_patches_partition_the_image(patches, rate, masked_count):
    visible, masked = mask_patches(jax.random.key(0), 5, patches, rate)
    assert visible.shape == (5, patches - masked_count) and visible.dtype == jnp.int32
    assert masked.shape == (5, patches) and masked.dtype == bool
    for row, mask in zip(np.asarray(visible), np.asarray(masked), strict=True):
        np.testing.assert_array_equal(row, np.flatnonzero(~mask))


def test_masked_patches_are_uniform_and_depend_on_the_key():
    _, masked = mask_patches(jax.random.key(1), 4000, 6, 0.5)
    np.testing.assert_allclose(np.mean(masked, 0), 0.5, atol=0.03)  # 0.03 is 3.8 standard deviations
    together = np.mean(np.asarray(masked)[:, :, None] & np.asarray(masked)[:, None], 0)
    np.testing.assert_allclose(together[~np.eye(6, dtype=bool)], 3 / 6 * 2 / 5, atol=0.03)
    again, other = (mask_patches(jax.random.key(k), 4000, 6, 0.5)[1] for k in (1, 2))
    np.testing.assert_array_equal(masked, again)
    assert (np.asarray(masked) != np.asarray(other)).any(1).mean() > 0.9


@pytest.mark.parametrize(
    ("patches", "rate"), [(16, 0.0), (16, 1.0), (16, 0.01), (16, 0.99), (1, 0.5), (16, float("nan")), (16, -1)]
)
def test_mask_fraction_that_masks_none_or_all_is_refused(patches, rate):
    with pytest.raises(ValueError, match="must hide at least one"):
        mask_patches(jax.random.key(0), 2, patches, rate)


def test_decoder_without_blocks_by_hand():
    """Patch p = row * columns + column: its position plus its token or the mask token, LayerNorm,
    and a linear map.
    """
    decoder = PatchDecoder(patch=2, channels=3, width=8, depth=0)
    tokens, grid = normal(2, 2, 5), (2, 3)
    visible = np.array([[1, 5], [0, 2]])
    init = jax.eval_shape(lambda: decoder.init(jax.random.key(0), tokens, visible, grid))["params"]
    params = jax.tree.map(lambda p: normal(*p.shape), init)
    ours = decoder.apply({"params": params}, tokens, visible, grid)
    p = jax.tree.map(np.float64, params)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                number = 3 * row + column
                if number in visible[b]:
                    x = tokens[b, list(visible[b]).index(number)] @ p["embedding"]["kernel"] + p["embedding"]["bias"]
                else:
                    x = p["mask_token"].copy()
                for i, frequency in enumerate((1.0, 0.01)):
                    x[i] += np.sin(row * frequency)
                    x[2 + i] += np.cos(row * frequency)
                    x[4 + i] += np.sin(column * frequency)
                    x[6 + i] += np.cos(column * frequency)
                x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
                x = x @ p["prediction"]["kernel"] + p["prediction"]["bias"]
                np.testing.assert_allclose(ours[b, number], x, atol=1e-4)


def small(**kwargs):
    return PatchDecoder(**{"patch": 4, "channels": 1, "width": 16, "depth": 2, "heads": 2, **kwargs})


def test_every_token_reaches_every_patch_in_any_order():
    tokens, visible, grid = normal(2, 3, 8), np.array([[0, 2, 5], [1, 3, 4]]), (2, 3)
    decoder = small()
    variables = decoder.init(jax.random.key(0), tokens, visible, grid)
    apply = jax.jit(lambda t, v: decoder.apply(variables, t, v, grid))
    out = apply(tokens, visible)
    assert out.shape == (2, 6, 16) and out.dtype == jnp.float32
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(apply(tokens[:, order], visible[:, order]), out, atol=1e-5)
    other = tokens.copy()
    other[0, 1] += 1
    changed = np.abs(apply(other, visible) - out).max(-1)
    assert (changed[0] > 1e-4).all() and not changed[1].any()


def test_mask_token_gets_gradient_from_masked_patches_alone():
    decoder, grid = small(depth=1), (1, 2)
    tokens = normal(1, 2, 8)
    params = decoder.init(jax.random.key(0), tokens, np.array([[0, 1]]), grid)["params"]

    @jax.jit
    @jax.grad
    def gradient(params, tokens, visible):
        return jnp.square(decoder.apply({"params": params}, tokens, visible, grid)).sum()

    def grad(tokens, visible):
        return gradient(params, tokens, visible)["mask_token"]

    assert not np.any(grad(tokens, np.array([[0, 1]])))
    assert np.abs(grad(tokens[:, :1], np.array([[1]]))).min() > 0


@pytest.mark.parametrize(
    ("visible", "grid", "kwargs", "message"),
    [
        ((2, 3), (1, 2), {}, "do not fit 1x2 patches"),
        ((2, 2), (2, 2), {}, "do not fit"),
        ((1, 3), (2, 2), {}, "do not fit"),
        ((2, 3), (2, 2), {"heads": 3}, "heads do not divide"),
        ((2, 3), (2, 2), {"width": 6, "heads": 1}, "multiple of 4"),
    ],
)
def test_mismatched_shapes_are_refused_when_traced(visible, grid, kwargs, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda: small(**kwargs).init(jax.random.key(0), jnp.zeros((2, 3, 8)), jnp.zeros(visible, int), grid)
        )


def test_bfloat16_is_close_to_float32():
    tokens, visible, grid = normal(2, 3, 8), np.array([[0, 2, 5], [1, 3, 4]]), (2, 3)
    variables = small().init(jax.random.key(0), tokens, visible, grid)
    full, half = (small(dtype=d).apply(variables, tokens, visible, grid) for d in (jnp.float32, jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert 0 < np.linalg.norm(half - full) / np.linalg.norm(full) < 0.03


def test_encoder_and_decoder_learn_masked_patches():
    """Any patch identifies one of two images, so all others are predictable. Without the image, the
    error is about 0.5.
    """
    image = normal(2, 8, 12, 1)
    encoder, decoder = VisionTransformer(width=8, depth=1, heads=2, patch=4), small(depth=1)
    patches = space_to_depth(jnp.asarray(image), 4).reshape(2, 6, 16)
    visible, _ = mask_patches(jax.random.key(0), 2, 6, 0.5)
    encoder_params = encoder.init(jax.random.key(1), image, visible, method="encode_visible")
    decoder_params = decoder.init(jax.random.key(2), jnp.zeros((2, 3, 16)), visible, (2, 3))
    optimizer = optax.adam(1e-2)

    def loss(params, key):
        visible, masked = mask_patches(key, 2, 6, 0.5)
        tokens = encoder.apply(params[0], image, visible, method="encode_visible")
        error = jnp.square(decoder.apply(params[1], tokens, visible, (2, 3)) - patches).mean(-1)
        return (error * masked).sum() / masked.sum()

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(3), 500))[1]

    losses = np.asarray(train((encoder_params, decoder_params)))
    assert losses[0] > 0.7 and losses[-50:].mean() < 0.1, losses[[0, -1]]
