"""The train step that every task shares: frozen modules, EMA weights, gradient norms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from morphojax.train import ema
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step


def test_frozen_modules_do_not_move_even_with_momentum_and_decay() -> None:
    opt = optax.adamw(0.1, weight_decay=0.1)

    def loss(params, state, constants, batch):
        return sum(jnp.sum(p["w"] ** 2) for p in params.values()), ({}, state.collections)

    variables = {"params": {"encoder": {"w": jnp.ones((2, 2))}, "head": {"w": jnp.ones((2, 2))}}}
    state = TrainState.create(variables, opt)
    state, _ = make_train_step(loss, opt)(state, {}, {})  # momentum for both
    after, metrics = make_train_step(loss, opt, frozen=("encoder",), levels={"encoder": {"w": "stem"}})(state, {}, {})
    np.testing.assert_array_equal(after.params["encoder"]["w"], state.params["encoder"]["w"])
    assert float(jnp.abs(after.params["head"]["w"] - state.params["head"]["w"]).min()) > 0
    assert int(after.step) == 2
    assert set(metrics) == {"loss", "grad_norm/encoder", "grad_norm/encoder/stem", "grad_norm/head"}
    assert float(metrics["grad_norm/head"]) == pytest.approx(float(jnp.linalg.norm(2 * state.params["head"]["w"])))


def test_the_decay_of_ema_weights_starts_as_a_mean() -> None:
    decay = ema.constant_decay(0.75)
    assert [float(decay(jnp.int32(s))) for s in range(6)] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4, 3 / 4, 3 / 4])


def test_ema_weights_rest_while_gradients_accumulate() -> None:
    decay = ema.constant_decay(0.75, accumulate=2)
    assert [float(decay(jnp.int32(s))) for s in range(6)] == pytest.approx([1, 0, 1, 1 / 2, 1, 2 / 3])


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_told(decay: float) -> None:
    with pytest.raises(ValueError, match=r"config.ema.decay=.*between 0 and 1, or 0 for no EMA weights"):
        ema.constant_decay(decay)


def test_ema_weights_cover_any_collection_and_copy_counters() -> None:
    """A collection that the state has never heard of is averaged; an integer is copied."""

    def loss(params, state, constants, batch):
        count = state.collections["counters"]["n"] + 1
        collections = {"counters": {"n": count}, "memory": {"m": state.collections["memory"]["m"] + 8.0}}
        return jnp.sum(params["w"] ** 2), ({}, collections)

    variables = {"params": {"w": jnp.ones(2)}, "counters": {"n": jnp.int32(0)}, "memory": {"m": jnp.float32(0)}}
    optimizer = optax.sgd(0.25)
    state = TrainState.create(variables, optimizer, keep_ema=True)
    step = jax.jit(make_train_step(loss, optimizer, ema_decay=lambda step: jnp.float32(0.5)))
    state, _ = step(state, {}, {})
    np.testing.assert_allclose(state.ema["params"]["w"], 0.75)  # halfway from 1 to 0.5
    assert float(state.ema["memory"]["m"]) == 4.0 and int(state.ema["counters"]["n"]) == 1
    assert set(state.variables) == set(state.with_ema_weights().variables) == set(variables)
