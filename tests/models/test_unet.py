import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.layers import depth_to_space
from morphojax.models.unet import UNetDecoder, space_to_depth, upsample

RNG = np.random.default_rng(0)


def pyramid(size, strides, channels=4):
    return tuple(
        jnp.asarray(
            RNG.standard_normal((2, -(-size[0] // s), -(-size[1] // s), 1 if s == 1 else channels)), jnp.float32
        )
        for s in strides
    )


def test_upsample_by_hand():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(
        upsample(x, 4, 4)[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    )
    np.testing.assert_array_equal(upsample(x, 3, 3)[0, :, :, 0], [[0, 0, 1], [0, 0, 1], [2, 2, 3]])
    np.testing.assert_array_equal(upsample(x, 2, 2), x)
    # No integer stride leads from 100 to 7 pixels by this rule (14 would give 8): spread evenly
    # instead.
    even = upsample(jnp.arange(7.0).reshape(1, 7, 1, 1), 100, 1)[0, :, 0, 0]
    assert np.bincount(np.asarray(even, int)).min() >= 14 and even[0] == 0 and even[-1] == 6


def test_space_to_depth_by_hand_and_back():
    x = jnp.arange(1.0, 13.0).reshape(1, 3, 4, 1)  # rows 1..4, 5..8, 9..12
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 1], [3, 4, 7, 8])
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 1, 0], [9, 10, 0, 0])
    two_channels = jnp.concatenate([x, -x], -1)
    np.testing.assert_array_equal(space_to_depth(two_channels, 2)[0, 0, 0], [1, -1, 2, -2, 5, -5, 6, -6])
    x = jnp.asarray(RNG.standard_normal((2, 7, 10, 3)), jnp.float32)
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(depth_to_space(space_to_depth(x, factor), factor)[:, :7, :10], x)


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((32, 32), (1, 2, 4, 8, 16, 32)),
        ((37, 50), (1, 2, 4, 8, 16, 32)),
        ((33, 31), (1, 4, 8, 16)),
        ((28, 42), (1, 14)),
        ((17, 16), (1, 1, 2, 4)),  # an encoder whose pyramid begins at full size
    ],
)
def test_any_pyramid_and_image_size(size, strides):
    decoder = UNetDecoder(widths=(3, 4, 5, 6, 7))
    maps = pyramid(size, strides)
    out, variables = jax.jit(decoder.init_with_output, static_argnums=2)(jax.random.key(0), maps, True)
    apply = jax.jit(lambda maps: decoder.apply(variables, maps, False))
    stride = 1 if strides[1] == 1 else 2
    assert out.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 3)
    assert np.isfinite(out).all()
    # Every level of the pyramid reaches the output.
    for i in range(len(maps)):
        changed = (*maps[:i], maps[i] + 1.0 + maps[i] ** 2, *maps[i + 1 :])
        assert not np.allclose(apply(changed), apply(maps)), i


def test_too_few_widths_are_refused():
    with pytest.raises(ValueError, match="needs 3 widths for this pyramid, it has 2"):
        UNetDecoder(widths=(4, 8)).init(jax.random.key(0), pyramid((16, 16), (1, 2, 4, 8, 16)), True)


def test_bfloat16_is_close_to_float32():
    maps = pyramid((16, 16), (1, 2, 4))
    init = jax.jit(UNetDecoder(widths=(8, 8)).init_with_output, static_argnums=2)
    full, variables = init(jax.random.key(0), maps, False)
    half = jax.jit(UNetDecoder(widths=(8, 8), dtype=jnp.bfloat16).apply, static_argnums=2)(variables, maps, False)
    assert half.dtype == jnp.bfloat16
    assert 0 < np.linalg.norm(np.float32(half) - full) / np.linalg.norm(full) < 0.02
