"""Heads for images alone: two views of a slice, or a slice with masked patches."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.heads.projection import Projection
from morphojax.models.layers import Dtype
from morphojax.models.mae import PatchDecoder
from morphojax.models.pretrainer import TowerOutputs, join_views, split_views


class ViewHead(nn.Module):
    """first, second: [B*K,features], the projected slices of two views, with batch statistics over
    both.

    With predictor_hidden_units also prediction_first and prediction_second:
    Linear-BatchNorm-ReLU-Linear of these.
    """

    features: int
    hidden_units: int | None = None
    layers: int = 2
    norm_last: bool = False
    predictor_hidden_units: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        project = Projection(
            self.features, self.hidden_units, self.layers, self.norm_last, self.dtype, name="projection"
        )
        joined = project(join_views(towers.slice_features), train)
        out = dict(zip(("first", "second"), split_views(joined), strict=True))
        if self.predictor_hidden_units:
            predict = Projection(self.features, self.predictor_hidden_units, dtype=self.dtype, name="predictor")
            names = ("prediction_first", "prediction_second")
            out |= zip(names, split_views(predict(joined, train)), strict=True)
        return out


class PrototypeHead(nn.Module):
    """first, second: [B*K,prototypes], cosines between the slices of two views and learned
    prototypes. embedding_first, embedding_second: [B*K,features], the unit embeddings of these
    slices.

    SwAV (Caron et al. 2020, arXiv:2006.09882).
    """

    prototypes: int
    features: int
    hidden_units: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        joined = Projection(self.features, self.hidden_units, dtype=self.dtype, name="projection")(
            join_views(towers.slice_features), train
        )
        shape = (self.features, self.prototypes)
        prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape, jnp.float32)
        prototypes = prototypes / jnp.linalg.norm(prototypes, axis=0, keepdims=True)
        unit = joined * jax.lax.rsqrt(jnp.maximum(jnp.square(joined).sum(-1, keepdims=True), 1e-12))
        names = ("first", "second", "embedding_first", "embedding_second")
        return dict(zip(names, (*split_views(unit @ prototypes), *split_views(unit)), strict=True))


class RegionHead(nn.Module):
    """first, second: [B*K,h,w,features], the decoder's maps of two views, every position projected
    separately.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        del train
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype, name="dense1")(join_views(towers.decoder_maps)))
        x = nn.Dense(self.features, dtype=self.dtype, name="dense2")(x).astype(jnp.float32)
        return dict(zip(("first", "second"), split_views(x), strict=True))


class PatchHead(nn.Module):
    """prediction [N,P,patch*patch*C] of all patches from the visible ones; image [N,H,W,C]; masked
    bool [N,P].
    """

    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, towers: TowerOutputs, train: bool) -> dict[str, jax.Array]:
        del train
        assert towers.masked_patches is not None  # an objective with this head asks for masked patches
        image = towers.images[0]
        grid = (image.shape[1] // self.patch, image.shape[2] // self.patch)
        decoder = PatchDecoder(
            self.patch, self.channels, self.width, self.depth, self.heads, self.dtype, name="decoder"
        )
        prediction = decoder(towers.masked_patches.tokens, towers.masked_patches.visible, grid)
        return {"prediction": prediction, "image": image, "masked": towers.masked_patches.masked}
