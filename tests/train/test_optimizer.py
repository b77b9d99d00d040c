"""Optimizers, schedules and layer-wise learning rates, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from morphojax.train import dynamics, optimizer

SETTINGS = dict(
    name="adam",
    learning_rate=0.1,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    clip_norm=0.0,
    accumulate=1,
    steps=10,
)


def test_schedule_warms_up_then_falls_as_a_cosine() -> None:
    rate = optimizer.make_schedule(learning_rate=2.0, schedule="cosine", warmup=0.2, updates=50)
    assert [float(rate(i)) for i in (0, 5, 10)] == pytest.approx([0.0, 1.0, 2.0])
    assert float(rate(30)) == pytest.approx(2.0 * 0.5 * (1 + np.cos(np.pi * 20 / 40)))
    assert float(rate(50)) == pytest.approx(0.0, abs=1e-7)


def test_schedule_of_a_single_update() -> None:
    rate = optimizer.make_schedule(learning_rate=2.0, schedule="cosine", warmup=0.0, updates=1)
    assert [float(rate(i)) for i in (0, 1)] == pytest.approx([2.0, 0.0], abs=1e-7)
    rate = optimizer.make_schedule(learning_rate=2.0, schedule="cosine", warmup=0.9, updates=1)
    assert [float(rate(i)) for i in (0, 1, 2)] == pytest.approx([0.0, 2.0, 0.0], abs=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "step"}, "config.optimizer.schedule='step'"),
        ({"warmup": 1.0}, "config.optimizer.warmup=1.0"),
        ({"name": "sgd"}, "config.optimizer.name='sgd'"),
        ({"accumulate": 3}, "config.optimizer.accumulate=3"),
    ],
)
def test_wrong_settings_name_their_key(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer.make_optimizer(**(SETTINGS | change))


def test_adam_is_pytorchs_with_decay_in_the_gradient() -> None:
    """One step by hand: m = (1 - b1) g, v = (1 - b2) g^2, both unbiased, so the step is lr * g /
    (|g| + eps).
    """
    opt, _ = optimizer.make_optimizer(**(SETTINGS | {"weight_decay": 0.5}))
    params = {"m": {"w": jnp.full((2, 2), 2.0), "b": jnp.full((2,), 2.0)}}
    grads = jax.tree.map(lambda p: jnp.full_like(p, -0.9), params)
    updates, _ = opt.update(grads, opt.init(params), params)
    # The matrix's gradient is -0.9 + 0.5 * 2 = 0.1: its sign turns. The vector is not decayed.
    np.testing.assert_allclose(updates["m"]["w"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["m"]["b"], 0.1, rtol=1e-5)


def test_accumulating_two_batches_is_one_update_with_their_mean() -> None:
    params = {"m": {"w": jnp.ones((2, 2))}}
    first, second = ({"m": {"w": jnp.array([[a, 1.0], [0.5, -1.0]])}} for a in (1.0, 3.0))
    accumulating, rate = optimizer.make_optimizer(**(SETTINGS | {"accumulate": 2, "schedule": "cosine"}))
    state = accumulating.init(params)
    nothing, state = accumulating.update(first, state, params)
    moved, _ = accumulating.update(second, state, params)
    assert float(jnp.abs(nothing["m"]["w"]).max()) == 0.0
    once, rate_of_update = optimizer.make_optimizer(**(SETTINGS | {"steps": 5, "schedule": "cosine"}))
    expected, _ = once.update(jax.tree.map(lambda a, b: (a + b) / 2, first, second), once.init(params), params)
    np.testing.assert_allclose(moved["m"]["w"], expected["m"]["w"], rtol=1e-6)
    assert rate(0) == rate(1) != rate(2)
    assert [rate(step) for step in (0, 2, 9)] == [rate_of_update(update) for update in (0, 1, 4)]


LEVELS = {"stem_conv": "stem", "stem_norm": "stem", "stage1_block1": "stage1", "stage2_block2": "stage2"}


def test_layer_scales_by_hand() -> None:
    """decay**d, d counted from the output; the decoder, and what has no level (a final norm), keep
    their rate.
    """
    leaf = {"kernel": jnp.zeros(1)}
    params = {"encoder": dict.fromkeys((*LEVELS, "norm"), leaf), "decoder": {"level0_conv1": leaf}}
    scales = optimizer.layer_scales(params, LEVELS, decay=0.5)
    by_name = {name: tree["kernel"] for name, tree in scales["encoder"].items()}
    expected = {"stem_conv": 0.125, "stem_norm": 0.125, "stage1_block1": 0.25, "stage2_block2": 0.5, "norm": 1.0}
    assert by_name == expected and scales["decoder"]["level0_conv1"]["kernel"] == 1.0


def test_layer_scales_of_an_encoder_for_each_plane() -> None:
    one = {name: {"w": jnp.ones(1)} for name in LEVELS}
    per_plane = {"encoder": {"encoders_la_2ch": one, "encoders_la_4ch": one}, "head": {"w": jnp.ones(1)}}
    shared = optimizer.layer_scales({"encoder": one, "head": {"w": jnp.ones(1)}}, LEVELS, decay=0.5)["encoder"]
    scales = optimizer.layer_scales(per_plane, LEVELS, decay=0.5)["encoder"]
    assert scales == {"encoders_la_2ch": shared, "encoders_la_4ch": shared}
    norms = dynamics.norms(per_plane, {"encoder": LEVELS})
    assert set(norms) == {"encoder/stem", "encoder/stage1", "encoder/stage2", "head"}
    assert float(norms["encoder/stem"]) == pytest.approx(2.0)  # four ones: two submodules of two planes


def test_layer_decay_reaches_the_updates() -> None:
    params = {"encoder": {"stem_conv": {"w": jnp.ones((2, 2))}}, "head": {"w": jnp.ones((2, 2))}}
    levels = {"encoder": {"stem_conv": "stem"}}
    opt, _ = optimizer.make_optimizer(**SETTINGS, layer_decay=0.5, levels=levels)
    updates, _ = opt.update(params, opt.init(params), params)
    np.testing.assert_allclose(updates["encoder"]["stem_conv"]["w"], 0.5 * updates["head"]["w"])


def test_gradient_clipping_bounds_the_norm() -> None:
    opt, _ = optimizer.make_optimizer(**(SETTINGS | {"clip_norm": 1.0}))
    params = {"w": jnp.ones((2, 2))}
    state = opt.init(params)
    _, state = opt.update({"w": jnp.full((2, 2), 50.0)}, state, params)
    first_moment = optax.tree_utils.tree_get(state, "mu")["w"]
    np.testing.assert_allclose(first_moment, 0.1 * 0.5, rtol=1e-5)  # (1 - b1) * g / |g|, |g| = 100
