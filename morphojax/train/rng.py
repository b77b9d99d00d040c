"""Randomness is a function of (seed, name, step). Nothing random is stored, so a resumed run draws
the same numbers.
"""

import zlib

import jax


def key(seed: int, name: str, step: jax.Array | int | None = None) -> jax.Array:
    """A JAX key for one purpose at one step.

    Args:
        seed: the run's seed.
        name: the purpose of the draw; each purpose has a stream of its own.
        step: the step (may be traced); None for draws made once.
    """
    # rbg instead of threefry: initialising a ResNet-18 compiles in a third of the time on a CPU,
    # and draws are cheaper. Neither depends on the sharding; rbg draws differ between kinds of
    # device.
    named = jax.random.fold_in(jax.random.key(seed, impl="rbg"), zlib.crc32(name.encode()))
    return named if step is None else jax.random.fold_in(named, step)
