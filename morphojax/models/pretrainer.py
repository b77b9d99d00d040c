"""The towers of pretraining: one pass over images and rows, shared by the heads of all objectives."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.features import Features, TableFeatures
from morphojax.models.mae import mask_patches
from morphojax.models.towers import SlicePool, fill_masked

Rows = tuple[jax.Array, jax.Array, jax.Array]  # values [B,F], missing bool [B,F], masked float [B,F]
Outputs = dict[str, dict[str, Any]]  # by objective, what its head gives


class MaskedPatches(NamedTuple):
    """Slices of which the encoder saw a share of the patches.

    tokens: [B*K,V,D] of the visible patches, visible: int [B*K,V], which they are, masked: bool [B*K,P].
    """

    tokens: jax.Array
    visible: jax.Array
    masked: jax.Array


class Seen(NamedTuple):
    """What the towers make of B subjects with K slices each, in V views. Lists are by view, and empty where nothing is.

    images:   [B*K,H,W,C], as the encoder was given them (masked slices filled).
    pyramids: pyramids of [B*K,h,w,c].
    slices:   [B*K,D].
    subjects: [B,D], the slices pooled.
    decoded:  [B*K,h,w,c]; empty without a decoder.
    masked_patches: the first view with masked patches; None where no head asked for it.
    rows:     table features of each variant of the rows that was asked for.
    mask:     bool [B,K], the slices that are there.
    negatives:   bool [B,B], the pairs of different subjects, neither of them padding.
    """

    images: tuple[jax.Array, ...]
    pyramids: tuple[tuple[jax.Array, ...], ...]
    slices: tuple[jax.Array, ...]
    subjects: tuple[jax.Array, ...]
    decoded: tuple[jax.Array, ...]
    masked_patches: MaskedPatches | None
    rows: Mapping[str, TableFeatures]
    mask: jax.Array
    negatives: jax.Array

    def maps(self, level: int) -> jax.Array:
        """A level of the first view's pyramid by subject: [B,K,h,w,c]."""
        levels = len(self.pyramids[0])
        if not -levels <= level < levels:
            raise ValueError(
                f"level={level} of a pyramid of {levels} levels: give 0 (the finest) to {levels - 1}, or -1 for the last"
            )
        x = self.pyramids[0][level]
        return x.reshape(*self.mask.shape, *x.shape[1:])

    def both(self, views: tuple[jax.Array, ...]) -> jax.Array:
        """Two views in one batch, so that a module, and its batch statistics, sees them in one pass: [2N,...]."""
        return jnp.stack(views, axis=1).reshape(-1, *views[0].shape[1:])

    def apart(self, both: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`both` undone."""
        pairs = both.reshape(-1, 2, *both.shape[1:])
        return pairs[:, 0], pairs[:, 1]


TowerOutputs = Seen


class Pretrainer(nn.Module):
    """(images [B,V,K,H,W,C], slice_mask bool [B,K], rows {variant: Rows}, negatives bool [B,B], train) -> (Outputs, Seen).

    All views are encoded in one pass, and so are all variants of the rows. MaskedPatches slices have no influence at all.
    Needs an rng named `draws`, from which a head draws what it draws.

    image_planes: the plane of each of the K slices. Where there are several planes, each has an embedding, which is added to its slices
        before these are pooled; what an objective sees of single slices is without.
    encoder_sees:  "whole" slices; "parts", the first view with a share `masked` of its patches withheld; or "both".
    train_encoder: False freezes the encoder: running statistics that are used and not updated, and no gradient.
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
    ) -> tuple[Outputs, Seen]:
        b, v, k = images.shape[:3]
        mask = jnp.repeat(slice_mask, v, axis=0)  # [B*V,K]
        flat = fill_masked(images.reshape(b * v, *images.shape[2:]), mask)
        flat = flat.reshape(b * v * k, *images.shape[3:])

        def by_view(x: jax.Array) -> tuple[jax.Array, ...]:
            """[B*V*K,...] or [B*V,...] -> V of [B*K,...] or [B,...]."""
            x = x.reshape(b, v, -1, *x.shape[1:])
            return tuple(x[:, i].reshape(-1, *x.shape[3:]) for i in range(v))

        seen = Seen(
            images=by_view(flat),
            pyramids=(),
            slices=(),
            subjects=(),
            decoded=(),
            masked_patches=self._encode_parts(by_view(flat)[0]) if self.image_input != "full" else None,
            rows=self._encode_rows(rows, train),
            mask=slice_mask,
            negatives=negatives,
        )
        if self.image_input != "masked":
            features: Features = self.encoder(flat, train and self.train_encoder)
            if not self.train_encoder:
                features = jax.lax.stop_gradient(features)
            pooled = self._with_planes(features.pooled.reshape(b * v, k, -1))
            subjects = SlicePool(self.pooling, name="slice_pool")(pooled, mask)
            levels = [by_view(level) for level in features.pyramid]
            seen = seen._replace(
                pyramids=tuple(tuple(level[i] for level in levels) for i in range(v)),
                slices=by_view(features.pooled),
                subjects=by_view(subjects),
                decoded=() if self.decoder is None else by_view(self.decoder((flat, *features.pyramid), train)),
            )
        return {name: head(seen, train) for name, head in self.heads.items()}, seen

    def _with_planes(self, pooled: jax.Array) -> jax.Array:
        """[N,K,D] plus the embedding of each slice's plane."""
        planes = list(dict.fromkeys(self.image_planes))
        if len(planes) < 2:
            return pooled
        start = nn.initializers.normal(0.02)
        embedding = self.param("plane_embedding", start, (len(planes), pooled.shape[-1]), jnp.float32)
        return pooled + embedding[jnp.array([planes.index(p) for p in self.image_planes])]

    def _encode_parts(self, image: jax.Array) -> MaskedPatches:
        patch = self.encoder.patch
        patches = (image.shape[1] // patch) * (image.shape[2] // patch)
        visible, masked = mask_patches(self.make_rng("draws"), len(image), patches, self.patch_mask_fraction)
        if self.is_initializing():
            self.encoder(image, False)  # so that it is whole, for those who take it up from a checkpoint
        tokens = self.encoder.encode_visible(image, visible)
        return MaskedPatches(tokens if self.train_encoder else jax.lax.stop_gradient(tokens), visible, masked)

    def _encode_rows(self, rows: Mapping[str, Rows], train: bool) -> dict[str, TableFeatures]:
        if not rows or self.table_encoder is None:
            return {}
        values, missing, masked = (jnp.stack(parts, axis=1) for parts in zip(*rows.values(), strict=True))
        b, r, f = values.shape
        out = self.table_encoder(
            values.reshape(b * r, f), missing.reshape(b * r, f), train, masked=masked.reshape(b * r, f)
        )
        tokens, pooled = (x.reshape(b, r, *x.shape[1:]) for x in out)
        return {name: TableFeatures(tokens[:, i], pooled[:, i]) for i, name in enumerate(rows)}
