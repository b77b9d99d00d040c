"""Heads that contrast images with table rows, or the planes of a subject with each other."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.fusion import CrossAttended
from morphojax.models.heads.projection import Projection, Temperature
from morphojax.models.layers import Dtype
from morphojax.models.pretrainer import TowerOutputs


class PairHead(nn.Module):
    """image, table: [B,features] of each subject's images and row; log_temperature; bias, if an
    initial one is given.

    rows: the row variant that is used.
    """

    features: int
    temperature: float
    learned_temperature: bool
    bias: float | None = None
    rows: str = "augmented"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        row = towers.row_features[self.rows].pooled
        out = {
            "image": Projection(self.features, dtype=self.dtype, name="image_head")(towers.subject_features[0], train),
            "table": Projection(self.features, dtype=self.dtype, name="table_head")(row, train),
            "log_temperature": Temperature(self.temperature, self.learned_temperature, name="temperature")(),
        }
        if self.bias is not None:
            start = self.bias
            out["bias"] = self.param("bias", lambda _: jnp.float32(start))
        return out


class PlaneHead(nn.Module):
    """embedding: [B,P,features] of each subject's P planes, the projected mean of a plane's slices;
    present: bool [B,P].

    All planes share one projection. image_planes: the plane of each of a subject's K slices.
    """

    features: int
    image_planes: tuple[str, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        planes = dict.fromkeys(self.image_planes)
        is_in_plane = jnp.array([[plane == p for p in self.image_planes] for plane in planes], jnp.float32)  # [P,K]
        weight = is_in_plane * towers.slice_mask[:, None]  # [B,P,K]
        count = weight.sum(-1, keepdims=True)
        slices = towers.slice_features[0].reshape(*towers.slice_mask.shape, -1).astype(jnp.float32)
        pooled = jnp.einsum("bpk,bkd->bpd", weight, slices) / jnp.maximum(count, 1)
        b, p, d = pooled.shape
        embedding = Projection(self.features, dtype=self.dtype, name="head")(pooled.reshape(b * p, d), train)
        return {"embedding": embedding.reshape(b, p, -1), "present": count[..., 0] > 0}


class MatchingHead(nn.Module):
    """The arrays of `pair`; and true, wrong_table, wrong_image [B]: logits that a row belongs to a
    subject's images.

    The row's tokens attend to the images' coarsest maps (`CrossAttended`); the first one, the class
    token, is classified.
    draw: (key, image, table, log_temperature, valid, negatives) -> the indices of hard negatives,
    with fields table, table_exists, image, image_exists (objectives.matching.hard_negatives). The
    output includes the `*_exists`.
    """

    pair: PairHead
    draw: Callable[..., Any]
    width: int
    layers: int
    heads: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        out = self.pair(towers, train)
        key = self.make_rng("draws")
        negative = self.draw(key, out["image"], out["table"], out["log_temperature"], None, towers.negatives)
        tokens, maps, mask = towers.row_features[self.pair.rows].tokens, towers.maps(-1), towers.slice_mask
        # Three pairs per subject: its own row and images, another row, other images.
        fused = CrossAttended(self.width, self.heads, self.layers, self.dtype, name="fusion")(
            jnp.concatenate([tokens, tokens[negative.table], tokens]),
            jnp.concatenate([maps, maps, maps[negative.image]]),
            jnp.concatenate([mask, mask, mask[negative.image]]),
        )
        logits = nn.Dense(1, name="answer")(fused[:, 0].astype(jnp.float32))[:, 0]
        names = ("true", "wrong_table", "wrong_image")
        return (
            out
            | dict(zip(names, jnp.split(logits, 3), strict=True))
            | {"table_exists": negative.table_exists, "image_exists": negative.image_exists}
        )
