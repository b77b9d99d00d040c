"""Randomness as a function of seed, name and step."""

import jax
import jax.numpy as jnp
import pytest

from morphojax.train import rng


def test_random_keys_differ_by_seed_name_and_step_only() -> None:
    data = [
        jax.random.key_data(k).tolist()
        for k in (rng.key(0, "a"), rng.key(1, "a"), rng.key(0, "b"), rng.key(0, "a", 0), rng.key(0, "a", 1))
    ]
    assert len({tuple(d) for d in data}) == 5
    assert jax.random.key_data(rng.key(0, "a", jnp.int32(1))).tolist() == data[4]


@pytest.mark.parametrize("seed", [0, 7, -1, 2**31 + 1, 2**40 + 3])
def test_a_seed_gives_the_same_key_as_an_argument_of_a_program(seed: int) -> None:
    traced = jax.jit(lambda seed: jax.random.key_data(rng.key(seed, "a")))(rng.as_array(seed))
    assert traced.tolist() == jax.random.key_data(rng.key(seed, "a")).tolist()
