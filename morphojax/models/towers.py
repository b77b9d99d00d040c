"""Whole models, put together from pieces given as fields. In both the image encoder is the submodule `encoder`."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.layers import BatchNorm, Dtype
from morphojax.models.unet import unfold


class Projection(nn.Module):
    """[B,D] -> float32 [B,features], not normalised: Linear-BatchNorm-ReLU-Linear. hidden None: D; 0: one Linear."""

    features: int
    hidden: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        hidden = x.shape[-1] if self.hidden is None else self.hidden
        if hidden:
            # No bias before BatchNorm, which would take it away again.
            x = nn.Dense(hidden, use_bias=False, dtype=self.dtype, name="dense1")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(x, train))
        return nn.Dense(self.features, dtype=self.dtype, name="dense2")(x).astype(jnp.float32)


def fill_masked(image: jax.Array, mask: jax.Array) -> jax.Array:
    """[B,K,...], mask [B,K] -> the same, masked slices replaced by the subject's own valid slices in turn.

    Padding would otherwise enter the batch statistics of the encoder. A subject without valid slices stays as it is.
    """
    order = jnp.argsort(~mask, axis=1, stable=True)  # the valid slices come first
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    rank = jnp.cumsum(~mask, axis=1) - 1
    own = jnp.arange(mask.shape[1])[None]
    source = jnp.where(mask | ~mask.any(1, keepdims=True), own, jnp.take_along_axis(order, rank % count, axis=1))
    return jnp.take_along_axis(image, source.reshape(*source.shape, *(1,) * (image.ndim - 2)), axis=1)


class SlicePool(nn.Module):
    """(features [B,K,D], mask bool [B,K]) -> [B,D]: the mean of the valid slices, or their attention-weighted mean.

    Attention as in Ilse et al. 2018 (arXiv:1802.04712, eq. 8): softmax over slices of w tanh(V f).
    """

    pooling: Literal["mean", "attention"] = "mean"
    hidden: int = 128

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        features = features.astype(jnp.float32)
        if self.pooling == "mean":
            score = jnp.zeros(mask.shape, jnp.float32)
        elif self.pooling == "attention":
            score = nn.Dense(1, name="score")(jnp.tanh(nn.Dense(self.hidden, name="hidden")(features)))[..., 0]
        else:
            raise ValueError(f"pooling is 'mean' or 'attention', not {self.pooling!r}")
        weight = jax.nn.softmax(jnp.where(mask, score, jnp.finfo(jnp.float32).min), axis=1)
        return jnp.where(mask[..., None], weight[..., None] * features, 0.0).sum(1)


class ImageTable(nn.Module):
    """Two towers for contrastive pretraining.

    (image [B,K,H,W,C], slice_mask bool [B,K], values [B,F], missing bool [B,F], train) -> dict of
    image, table: embeddings float32 [B,projection_dim], not normalised; log_temperature: scalar;
    image_features: [B,D], the pooled encoder output before the head. Masked slices have no influence at all.
    image_hidden, table_hidden: units of the heads' hidden layer; None: as many as the features; 0: a linear head.
    """

    encoder: nn.Module
    table_encoder: nn.Module
    projection_dim: int = 128
    image_hidden: int | None = None
    table_hidden: int | None = None
    pooling: Literal["mean", "attention"] = "mean"
    temperature: float = 0.1
    learned_temperature: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, slice_mask: jax.Array, values: jax.Array, missing: jax.Array, train: bool
    ) -> dict[str, jax.Array]:
        b, k = image.shape[:2]
        slices = fill_masked(image, slice_mask).reshape(b * k, *image.shape[2:])
        pooled = self.encoder(slices, train).pooled.reshape(b, k, -1)
        image_features = SlicePool(self.pooling, name="slice_pool")(pooled, slice_mask)
        table_features = self.table_encoder(values, missing, train)
        log_temperature = jnp.float32(math.log(self.temperature))
        if self.learned_temperature:
            log_temperature = self.param("log_temperature", lambda _: log_temperature)
        image_head = Projection(self.projection_dim, self.image_hidden, self.dtype, name="image_head")
        table_head = Projection(self.projection_dim, self.table_hidden, self.dtype, name="table_head")
        return {
            "image": image_head(image_features, train),
            "table": table_head(table_features, train),
            "log_temperature": log_temperature,
            "image_features": image_features,
        }


class Segmenter(nn.Module):
    """(image [B,H,W,C], train, train_encoder=None) -> logits float32 [B,H,W,n_classes].

    train_encoder False freezes the encoder: running statistics that are used and not updated, and no gradient.
    None: as `train`.
    """

    encoder: nn.Module
    decoder: nn.Module
    n_classes: int

    @nn.compact
    def __call__(self, image: jax.Array, train: bool, train_encoder: bool | None = None) -> jax.Array:
        train_encoder = train if train_encoder is None else train_encoder
        pyramid = self.encoder(image, train and train_encoder).pyramid
        if not train_encoder:
            pyramid = jax.lax.stop_gradient(pyramid)
        x = self.decoder((image, *pyramid), train)
        height, width = image.shape[1:3]
        stride = round(height / x.shape[1])
        logits = nn.Dense(stride**2 * self.n_classes, name="head")(x.astype(jnp.float32))
        return unfold(logits, stride, height, width)
