"""Calibration: offsets of the logits by which a stack's expected volumes become those of the table.

Kervadec et al. 2019 (arXiv:1805.04628) penalise the difference of the volumes, Pathak et al. 2015
(arXiv:1506.03648) find the closest distribution that fulfils the constraint; with equality
constraints on expected volumes that distribution is the softmax of the logits plus one offset per
class (its Lagrange multiplier), which is what `calibrate` computes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from morphojax.objectives.embeddings import masked_mean, valid_rows

Array = jax.Array

ITERATIONS = 25
TOLERANCE = 1e-3  # relative error of the volumes at which the iteration ends


def calibrate(
    logits: Array,
    slice_mask: Array,
    voxel_ml: Array,
    table: Array,
    *,
    band: float = 0.0,
    limit: float = 6.0,
    valid: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Offsets float32 [B, S]: `logits + [0, offsets]` have the expected volumes of the table.

    The offsets minimise the convex function sum over voxels of log-sum-exp(logits + offsets)
    - target voxels x offsets, whose gradient is the difference of the volumes. Newton's method in
    the S offsets, each step scaled by log(1 + 2d) / (2d) with d its largest entry: the sum is
    generalised self-concordant (Bach 2010, arXiv:0910.4627; Sun and Tran-Dinh 2018,
    arXiv:1703.04599), and with this length every step decreases it.

    Args:
      logits: [B, K, H, W, S + 1], class 0 the background; any float type, computed in float32.
      slice_mask: bool [B, K]. voxel_ml: [B], volume of a voxel in ml.
      table: [B, S] in ml. An entry that is not a positive finite number is unknown: the offset of
        that structure stays 0.
      band: relative tolerance of the table. Volumes inside table * (1 -+ band) stay; others move to
        its nearest end.
      limit: in absolute value, the largest offset.
      valid: bool [B]; False for padding. None: all valid.

    Returns:
      offsets: without gradient.
      metrics: `volume_before` and `volume_after`, mean relative errors of known volumes against the
        table; `offset`, the mean absolute offset of structures with a known volume; `limited`, the
        fraction of them at the limit.

    Raises:
      ValueError: the shapes do not fit, or band or limit is out of range.
    """
    _check(logits, slice_mask, voxel_ml, table, band, limit)
    counted = slice_mask.astype(bool) & valid_rows(valid, len(logits))[:, None]
    known = jnp.isfinite(table) & (table > 0) & counted.any(1)[:, None]
    voxels = jnp.where(known, table / voxel_ml[:, None], 1.0).astype(jnp.float32)
    odds = _odds(logits, counted)
    before, _ = _moments(odds, jnp.zeros_like(voxels))
    goal = jnp.where(known, jnp.clip(before, voxels * (1 - band), voxels * (1 + band)), before)
    offsets, after = _solve(odds, goal, known, limit)

    def error(volume: Array) -> Array:
        return masked_mean(jnp.abs(volume - voxels) / voxels, known)

    size = jnp.abs(offsets)
    metrics = {
        "volume_before": error(before),
        "volume_after": error(after),
        "offset": masked_mean(size, known),
        "limited": masked_mean((size >= limit).astype(jnp.float32), known),
    }
    return offsets, metrics


def _odds(logits: Array, counted: Array) -> Array:
    """exp(logits) up to a factor per voxel, [B, S + 1, voxels]: all exponentials that the iteration
    needs. Voxels that do not count are background.
    """
    logits = jax.lax.stop_gradient(logits.astype(jnp.float32))
    background = jnp.arange(logits.shape[-1]) == 0
    odds = jnp.where(counted[..., None, None, None], jnp.exp(logits - logits.max(-1, keepdims=True)), background)
    return jnp.moveaxis(odds, -1, 1).reshape(len(odds), odds.shape[-1], -1)


def _solve(odds: Array, goal: Array, known: Array, limit: float) -> tuple[Array, Array]:
    """Offsets and volumes (in voxels) [B, S]."""
    identity = jnp.eye(goal.shape[1])

    def open_ends(carry: tuple[Array, ...]) -> Array:
        """Offsets that may still move: known, and not pushed against the limit."""
        _, offsets, volume, _ = carry
        pushed = jnp.where(volume < goal, offsets >= limit, offsets <= -limit)
        return known & ~pushed

    def unfinished(carry: tuple[Array, ...]) -> Array:
        off = jnp.abs(carry[2] - goal) > TOLERANCE * goal
        return (carry[0] < ITERATIONS) & jnp.any(open_ends(carry) & off)

    def iterate(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        count, offsets, volume, hessian = carry
        free = open_ends(carry)
        pair = free[:, :, None] & free[:, None, :]
        # A class that no voxel can become has a Hessian of 0: the small number gives it a long
        # step, which the limit ends.
        matrix = jnp.where(pair, hessian, 0.0) + identity * jnp.where(free, 1e-3, 1.0)[..., None]
        step = jnp.linalg.solve(matrix, jnp.where(free, goal - volume, 0.0)[..., None])[..., 0]
        length = 2 * jnp.max(jnp.abs(step), axis=1, keepdims=True)
        step = step * jnp.log1p(length) / jnp.maximum(length, 1e-9)
        offsets = jnp.clip(offsets + step, -limit, limit)
        return count + 1, offsets, *_moments(odds, offsets)

    zero = jnp.zeros_like(goal)
    start: Any = (jnp.int32(0), zero, *_moments(odds, zero))
    _, offsets, volume, _ = jax.lax.while_loop(unfinished, iterate, start)
    return offsets, volume


def _moments(odds: Array, offsets: Array) -> tuple[Array, Array]:
    """Gradient and Hessian of the log-sum-exp: expected voxels [B, S] and their covariance
    [B, S, S].
    """
    moved = odds * jnp.exp(jnp.pad(offsets, ((0, 0), (1, 0))))[..., None]
    p = moved / jnp.sum(moved, axis=1, keepdims=True)
    product = jnp.einsum("bip,bjp->bij", p, p, precision=jax.lax.Precision.HIGHEST)[:, 1:]
    volume = jnp.sum(product, axis=2)  # probabilities of a voxel add up to 1
    return volume, volume[:, :, None] * jnp.eye(volume.shape[1]) - product[:, :, 1:]


def _check(logits: Array, slice_mask: Array, voxel_ml: Array, table: Array, band: float, limit: float) -> None:
    if logits.ndim != 5 or slice_mask.shape != logits.shape[:2] or voxel_ml.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be [B, K, H, W, classes], slice_mask [B, K] and voxel_ml [B], "
            f"got {logits.shape}, {slice_mask.shape} and {voxel_ml.shape}"
        )
    if table.shape != (len(logits), logits.shape[-1] - 1):
        raise ValueError(f"table must be [B, S] = [{len(logits)}, {logits.shape[-1] - 1}], got {table.shape}")
    if not 0 <= band < 1:
        raise ValueError(f"band must be a relative tolerance from 0 to below 1, got {band}")
    if not 0 < limit < 50:
        raise ValueError(f"limit must be a positive offset below 50, got {limit}")
