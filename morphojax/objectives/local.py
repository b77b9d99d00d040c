"""Local contrast: regions of a feature map within one slice.

Pure functions: feature maps -> loss, metrics.
"""

import jax
import jax.numpy as jnp

from morphojax.objectives.contrastive import nt_xent
from morphojax.objectives.embeddings import masked_mean, valid_rows, zero_padding

Array = jax.Array


def regional(
    first: Array,
    second: Array,
    log_temperature: Array | float,
    region: int = 3,
    sampled: int | None = None,
    key: Array | None = None,
    valid: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Local contrastive loss: each region against the other regions of its slice.

    Chaitanya et al. 2020 (arXiv:2006.10511, eq. 3). The two views of a slice differ in intensity
    only: a pixel shows the same anatomy in both. The feature maps f and g are cut into regions u of
    `region` x `region` pixels. With the cosine similarity s,

        l(f_u, g_u) = -log(exp(s(f_u, g_u) / tau) / (exp(s(f_u, g_u) / tau) + sum over v != u of
                           exp(s(f_u, f_v) / tau) + exp(s(f_u, g_v) / tau))),

    and the loss is the mean of l(f_u, g_u) and l(g_u, f_u) over regions and valid slices: `nt_xent`
    within each slice.

    As in the paper, a region is the concatenation of its pixels' features, not their mean, so the
    arrangement inside a region matters. Regions tile the map without overlap: overlapping regions
    would be negatives that share pixels. Pixels that fill no whole region are dropped, evenly on
    both sides. The authors' code takes 13 regions at fixed positions with 5 negatives each; here
    all regions are negatives, or `sampled` of them.
    Memory: N * (2 * regions)^2.

    Args:
      first, second: [N, h, w, C], any float type; row i of both is the same slice in the same
        geometry.
      log_temperature: scalar, fixed or learned; the loss is differentiable in it.
      region: side of a region, in pixels of the feature map.
      sampled: number of regions drawn without replacement, the same ones for the whole batch. None:
        all.
      key: PRNG key of that draw; needed only with `sampled`.
      valid: bool [N]; False for padding. None: all valid.

    Returns:
      loss: float32 scalar (0 when there is no valid slice).
      metrics: float32 scalars without gradient. `top1`, `top5`: the fraction of anchors whose
        positive is among the 1 or 5 most similar regions of the slice; a tie counts as an error.
        `temperature`.

    Raises:
      ValueError: the shapes do not fit, there are fewer than two regions, `sampled` exceeds their
        number or has no key, or a log temperature given as a float is not finite.
    """
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(f"the two feature maps must both be [N, h, w, C], got {first.shape} and {second.shape}")
    valid = valid_rows(valid, len(first))
    maps = (zero_padding(x.reshape(len(x), -1), valid).reshape(x.shape) for x in (first, second))
    first, second = (_regions(x, region) for x in maps)
    chosen = _sample(first.shape[1], sampled, key)
    if chosen is not None:
        first, second = first[:, chosen], second[:, chosen]
    loss, metrics = jax.vmap(lambda a, b: nt_xent(a, b, log_temperature))(first, second)
    metrics = {
        "top1": masked_mean(metrics["top1"], valid),
        "top5": masked_mean(metrics["top5"], valid),
        "temperature": jnp.exp(jnp.asarray(log_temperature, jnp.float32)),
    }
    return masked_mean(loss, valid), jax.lax.stop_gradient(metrics)


def _regions(x: Array, side: int) -> Array:
    """[N, h, w, C] -> [N, regions, side * side * C], row by row."""
    n, h, w, c = x.shape
    if side < 1:
        raise ValueError(f"region must be at least 1, got {side}")
    rows, columns = h // side, w // side
    if rows * columns < 2:
        raise ValueError(
            f"a feature map of {h} x {w} holds {rows * columns} regions of {side} x {side}; contrast needs at least 2"
        )
    top, left = (h - rows * side) // 2, (w - columns * side) // 2
    x = x[:, top : top + rows * side, left : left + columns * side]
    x = x.reshape(n, rows, side, columns, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows * columns, side * side * c)


def _sample(regions: int, sampled: int | None, key: Array | None) -> Array | None:
    """Indices of the sampled regions; None for all."""
    if sampled is None:
        return None
    if not 2 <= sampled <= regions:
        raise ValueError(f"sampled must lie between 2 and the {regions} regions of a map, got {sampled}")
    if key is None:
        raise ValueError("sampled needs a key: the regions are drawn at random")
    return jax.random.choice(key, regions, (sampled,), replace=False)
