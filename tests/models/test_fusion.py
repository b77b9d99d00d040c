import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.attention import sine_positions
from morphojax.models.fusion import ColumnHead, CrossAttended
from tests.models.test_attention import random_params, slow_block, slow_norm, wide

MODEL = CrossAttended(width=8, heads=2, layers=2)
MASK = np.array([[True, True], [True, False], [False, False]])


def batch(seed=0):
    """tokens [3,4,6], maps [3,2,2,3,5]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((3, 4, 6)).astype(np.float32), rng.standard_normal((3, 2, 2, 3, 5)).astype(np.float32)


PARAMS = random_params(jax.eval_shape(MODEL.init, jax.random.key(0), *batch(), MASK))


@jax.jit
def run(params, tokens, maps, mask=MASK):
    """(loss, output), and the gradients with respect to params, tokens and maps."""

    def loss(params, tokens, maps):
        out = MODEL.apply({"params": params}, tokens, maps, mask)
        return (out[..., :4] ** 2).sum(), out

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, tokens, maps)


def slow(params, tokens, maps, mask):
    """One subject in float64: the positions of the valid slices alone, without a mask."""
    p = wide(params)
    sines = np.asarray(sine_positions(2, 3, 8), np.float64)
    places = [
        slow_norm(p["map_norm"], maps[k, y, x] @ p["map_dense"]["kernel"] + p["map_dense"]["bias"]) + sines[y, x]
        for k, y, x in np.ndindex(maps.shape[:3])
        if mask[k]
    ]
    x = tokens @ p["token_dense"]["kernel"] + p["token_dense"]["bias"]
    for name in ("block1", "block2"):
        x = slow_block(p[name], x, np.stack(places) if places else None)
    return slow_norm(p["norm"], x)


def test_cross_attended_equals_loops():
    tokens, maps = batch()
    out = run(PARAMS, tokens, maps)[0][1]
    assert out.shape == (3, 4, 8) and out.dtype == jnp.float32
    expected = [slow(PARAMS, *wide((t, m)), mask) for t, m, mask in zip(tokens, maps, MASK, strict=True)]
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("junk", [30.0, np.nan, np.inf])
def test_masked_slices_have_no_influence(junk):
    """Bit for bit; every valid position has influence; a subject without valid slices has finite
    gradients.
    """
    tokens, maps = batch()
    expected = run(PARAMS, tokens, maps)
    again = run(PARAMS, tokens, np.where(MASK[..., None, None, None], maps, junk).astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, again, expected)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(expected))
    reached = np.abs(expected[1][2]).sum(-1) > 0
    np.testing.assert_array_equal(reached, np.broadcast_to(MASK[..., None, None], reached.shape))


def test_position_matters_and_slice_order_does_not():
    tokens, maps = batch()
    mask = np.ones((3, 2), bool)
    out = run(PARAMS, tokens, maps, mask)[0][1]
    np.testing.assert_allclose(run(PARAMS, tokens, maps[:, ::-1], mask)[0][1], out, rtol=1e-3, atol=1e-4)
    for axis in (2, 3):
        assert np.abs(run(PARAMS, tokens, np.flip(maps, axis), mask)[0][1] - out).max() > 1e-2


def test_subjects_do_not_influence_each_other():
    tokens, maps = batch()
    order = np.array([2, 0, 1])
    out = run(PARAMS, tokens, maps)[0][1]
    np.testing.assert_allclose(
        run(PARAMS, tokens[order], maps[order], MASK[order])[0][1], out[order], rtol=1e-4, atol=1e-5
    )


def test_bfloat16_and_bad_shapes():
    tokens, maps = batch()
    shapes = lambda **fields: jax.eval_shape(  # noqa: E731
        CrossAttended(**{"width": 8, "heads": 2, "layers": 1, **fields}).init_with_output,
        jax.random.key(0),
        tokens,
        maps,
        MASK,
    )
    out, variables = shapes(dtype=jnp.bfloat16)
    assert out.dtype == jnp.bfloat16 and {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    with pytest.raises(ValueError, match="multiple of 4"):
        shapes(width=6)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        shapes(heads=3)
    with pytest.raises(ValueError, match="slice_mask"):
        MODEL.apply({"params": PARAMS}, tokens, maps, MASK[:, :1])


CARDINALITIES = (1, 3, 1, 2)


def test_column_head_by_hand():
    tokens = np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)
    head = ColumnHead(CARDINALITIES)
    params = random_params(head.init(jax.random.key(0), tokens))
    out = head.apply({"params": params}, tokens)
    expected, start = [], 0
    for f, k in enumerate(CARDINALITIES):
        rows = slice(start, start + k)
        expected.append(wide(tokens[:, f]) @ wide(params["kernel"][rows]).T + params["bias"][rows])
        start += k
    assert out.shape == (5, 7) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.concatenate(expected, 1), rtol=1e-4, atol=1e-5)


def test_a_column_is_predicted_from_its_own_token():
    tokens = jnp.ones((1, 4, 6))
    head = ColumnHead(CARDINALITIES)
    params = random_params(head.init(jax.random.key(0), tokens))
    jacobian = jax.jacobian(lambda t: head.apply({"params": params}, t)[0])(tokens)[:, 0]
    owner = np.repeat(np.arange(4), CARDINALITIES)
    np.testing.assert_array_equal((jacobian != 0).any(-1), owner[:, None] == np.arange(4))


def test_column_head_starts_at_unit_variance_and_refuses_a_class_token():
    tokens = jnp.ones((1, 4, 256))
    out, variables = ColumnHead((1, 300, 1, 2), jnp.bfloat16).init_with_output(jax.random.key(0), tokens)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(variables["params"]["kernel"].std(), 1 / 16, rtol=0.02)
    with pytest.raises(ValueError, match="5 tokens for 4 cardinalities"):
        ColumnHead(CARDINALITIES).init(jax.random.key(0), jnp.ones((1, 5, 6)))
