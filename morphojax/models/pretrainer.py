"""The model of pretraining: image and table encoders, shared by the heads of all objectives."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.features import Features, TableFeatures
from morphojax.models.mae import mask_patches
from morphojax.models.towers import SlicePool, fill_masked

Rows = tuple[jax.Array, jax.Array, jax.Array]  # values [B,F], missing bool [B,F], masked float [B,F]
Outputs = dict[str, dict[str, Any]]  # the arrays of each objective's head


class MaskedPatches(NamedTuple):
    """Encoded slices with masked patches.

    tokens:  [B*K,V,D] of the visible patches.
    visible: int [B*K,V], the numbers of the visible patches.
    masked:  bool [B*K,P].
    """

    tokens: jax.Array
    visible: jax.Array
    masked: jax.Array


class TowerOutputs(NamedTuple):
    """Outputs of the encoders for B subjects with K slices each, in V views.

    Tuples have one entry per view; they are empty if nothing of that kind was computed.

    images:           [B*K,H,W,C], the encoder's input (with `towers.fill_masked`).
    pyramids:         pyramids of [B*K,h,w,c].
    slice_features:   [B*K,D].
    subject_features: [B,D], pooled over slices.
    decoder_maps:     [B*K,h,w,c]; empty without a decoder.
    masked_patches:   the first view with masked patches; None if no head needs it.
    row_features:     table features by row variant.
    slice_mask:       bool [B,K], True for slices that exist.
    negatives:        bool [B,B], pairs of different subjects, neither of them padding.
    """

    images: tuple[jax.Array, ...]
    pyramids: tuple[tuple[jax.Array, ...], ...]
    slice_features: tuple[jax.Array, ...]
    subject_features: tuple[jax.Array, ...]
    decoder_maps: tuple[jax.Array, ...]
    masked_patches: MaskedPatches | None
    row_features: Mapping[str, TableFeatures]
    slice_mask: jax.Array
    negatives: jax.Array

    def maps(self, level: int) -> jax.Array:
        """One level of the first view's pyramid, by subject: [B,K,h,w,c]."""
        levels = len(self.pyramids[0])
        if not -levels <= level < levels:
            raise ValueError(
                f"level={level} of a pyramid of {levels} levels: give 0 (the finest) to {levels - 1}, or -1 for the last"
            )
        x = self.pyramids[0][level]
        return x.reshape(*self.slice_mask.shape, *x.shape[1:])


def join_views(views: tuple[jax.Array, ...]) -> jax.Array:
    """Two views [N,...] as one batch [2N,...], so that batch statistics cover both."""
    return jnp.stack(views, axis=1).reshape(-1, *views[0].shape[1:])


def split_views(joined: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of `join_views`."""
    pairs = joined.reshape(-1, 2, *joined.shape[1:])
    return pairs[:, 0], pairs[:, 1]


class Pretrainer(nn.Module):
    """(images [B,V,K,H,W,C], slice_mask [B,K], rows {variant: Rows}, negatives [B,B], train) ->
    (Outputs, TowerOutputs).

    slice_mask and negatives are bool. All views are encoded in one pass, and so are all variants of
    the rows. Masked slices have no influence. Needs an rng `draws`, for masked patches and for the
    heads.

    image_planes: the plane of each of the K slices. With several planes, each has a learned
        embedding, added to its slice features before they are pooled into subject features;
        `slice_features` do not include it.
    image_input: "full" images; "masked", the first view with a fraction patch_mask_fraction of its
        patches masked; or "both".
    train_encoder: False freezes the encoder: running statistics are used and not updated, and no
    gradient flows to it.
    """

    encoder: nn.Module
    heads: Mapping[str, nn.Module]
    table_encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    image_planes: tuple[str, ...] = ()
    pooling: Literal["mean", "attention"] = "mean"
    image_input: Literal["full", "masked", "both"] = "full"
    patch_mask_fraction: float = 0.75
    train_encoder: bool = True

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        slice_mask: jax.Array,
        rows: Mapping[str, Rows],
        negatives: jax.Array,
        train: bool,
    ) -> tuple[Outputs, TowerOutputs]:
        b, v, k = images.shape[:3]
        mask = jnp.repeat(slice_mask, v, axis=0)  # [B*V,K]
        flat = fill_masked(images.reshape(b * v, *images.shape[2:]), mask)
        flat = flat.reshape(b * v * k, *images.shape[3:])

        def by_view(x: jax.Array) -> tuple[jax.Array, ...]:
            """[B*V*K,...] or [B*V,...] -> V of [B*K,...] or [B,...]."""
            x = x.reshape(b, v, -1, *x.shape[1:])
            return tuple(x[:, i].reshape(-1, *x.shape[3:]) for i in range(v))

        towers = TowerOutputs(
            images=by_view(flat),
            pyramids=(),
            slice_features=(),
            subject_features=(),
            decoder_maps=(),
            masked_patches=self._encode_masked(by_view(flat)[0]) if self.image_input != "full" else None,
            row_features=self._encode_rows(rows, train),
            slice_mask=slice_mask,
            negatives=negatives,
        )
        if self.image_input != "masked":
            features: Features = self.encoder(flat, train and self.train_encoder)
            if not self.train_encoder:
                features = jax.lax.stop_gradient(features)
            pooled = self._add_plane_embedding(features.pooled.reshape(b * v, k, -1))
            subjects = SlicePool(self.pooling, name="slice_pool")(pooled, mask)
            levels = [by_view(level) for level in features.pyramid]
            decode = self.decoder
            towers = towers._replace(
                pyramids=tuple(tuple(level[i] for level in levels) for i in range(v)),
                slice_features=by_view(features.pooled),
                subject_features=by_view(subjects),
                decoder_maps=() if decode is None else by_view(decode((flat, *features.pyramid), train)),
            )
        return {name: head(towers, train) for name, head in self.heads.items()}, towers

    def _add_plane_embedding(self, pooled: jax.Array) -> jax.Array:
        """[N,K,D] plus the embedding of each slice's plane."""
        planes = list(dict.fromkeys(self.image_planes))
        if len(planes) < 2:
            return pooled
        start = nn.initializers.normal(0.02)
        embedding = self.param("plane_embedding", start, (len(planes), pooled.shape[-1]), jnp.float32)
        return pooled + embedding[jnp.array([planes.index(p) for p in self.image_planes])]

    def _encode_masked(self, image: jax.Array) -> MaskedPatches:
        patch = self.encoder.patch
        patches = (image.shape[1] // patch) * (image.shape[2] // patch)
        visible, masked = mask_patches(self.make_rng("draws"), len(image), patches, self.patch_mask_fraction)
        if self.is_initializing():
            self.encoder(image, False)  # creates all parameters, for runs that start from this one's checkpoint
        tokens = self.encoder.encode_visible(image, visible)
        return MaskedPatches(tokens if self.train_encoder else jax.lax.stop_gradient(tokens), visible, masked)

    def _encode_rows(self, rows: Mapping[str, Rows], train: bool) -> dict[str, TableFeatures]:
        if not rows or self.table_encoder is None:
            return {}
        stacked = [jnp.stack(parts, axis=1) for parts in zip(*rows.values(), strict=True)]
        values, missing, masked = (x.reshape(-1, x.shape[-1]) for x in stacked)
        out = self.table_encoder(values, missing, train, masked=masked)
        tokens, pooled = (x.reshape(-1, len(rows), *x.shape[1:]) for x in out)
        return {name: TableFeatures(tokens[:, i], pooled[:, i]) for i, name in enumerate(rows)}
