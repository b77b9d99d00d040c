"""Randomness is a function of (seed, name, step): nothing random is stored, so a resumed run draws what it would have drawn."""

import zlib

import jax


def key(seed: int, name: str, step: jax.Array | int | None = None) -> jax.Array:
    """A JAX key for one purpose at one step.

    Args:
        seed: the run's seed.
        name: what the draw is for; two purposes never share a stream.
        step: the step (may be traced); None for draws made once.
    """
    # rbg rather than threefry: initialising a ResNet-18 compiles in a third of the time on a CPU, and draws are cheaper. Both are
    # the same for any sharding; rbg, unlike threefry, differs between kinds of device.
    named = jax.random.fold_in(jax.random.key(seed, impl="rbg"), zlib.crc32(name.encode()))
    return named if step is None else jax.random.fold_in(named, step)
