"""The temperature of contrastive losses: checks, and the clipping of a learned one."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array

_LOWEST, _LARGEST = math.log(0.01), math.log(1.0)  # bounds of a learned log temperature


def check_temperature(temperature: float) -> None:
    """Raises ValueError for a temperature of a config that is not a finite number above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"a temperature must be finite and above 0 (0.1 is usual), got {temperature}")


def inverse_temperature(log_temperature: Array | float) -> Array:
    """1 / tau, float32: the factor from cosines to logits.

    Raises ValueError for a float that is not finite.
    """
    if isinstance(log_temperature, float) and not math.isfinite(log_temperature):
        raise ValueError(f"log_temperature must be finite, got {log_temperature}")
    return jnp.exp(-jnp.asarray(log_temperature, jnp.float32))


@jax.custom_vjp
def clip_log_temperature(log_temperature: Array) -> Array:
    """A learned log temperature, clipped to between log 0.01 and log 1.

    CLIP keeps its logit scale 1 / tau at most 100 (Radford et al. 2021, arXiv:2103.00020, section
    2.5). At tau = 1 the logits are the cosines themselves: too narrow a range for a sharp softmax
    over a large batch, so larger temperatures are of no use.

    CLIP clips the parameter after each update. Here the value is clipped where it is used. Beyond a
    bound the gradient passes only if a descent step leads back into the range; with a plain clip,
    whose gradient is 0 there, the parameter would stay outside for ever.
    """
    return jnp.clip(log_temperature, _LOWEST, _LARGEST)


def _clip_forward(log_temperature: Array) -> tuple[Array, Array]:
    return clip_log_temperature(log_temperature), log_temperature


def _clip_backward(log_temperature: Array, gradient: Array) -> tuple[Array]:
    outward = ((log_temperature < _LOWEST) & (gradient > 0)) | ((log_temperature > _LARGEST) & (gradient < 0))
    return (jnp.where(outward, 0.0, gradient),)


clip_log_temperature.defvjp(_clip_forward, _clip_backward)
