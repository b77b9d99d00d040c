"""Modules around an image encoder: slice masking and pooling, one encoder per plane, and the
segmenter.
"""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.features import Features
from morphojax.models.layers import SubpixelConv


def fill_masked(image: jax.Array, mask: jax.Array) -> jax.Array:
    """[B,K,...], mask [B,K] -> the same array; the subject's valid slices, in turn, replace its
    masked slices.

    Padding would otherwise enter the encoder's batch statistics. A subject without valid slices
    does not change.
    """
    valid_first = jnp.argsort(~mask, axis=1, stable=True)
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    rank = jnp.cumsum(~mask, axis=1) - 1  # of a masked slice among the masked ones
    replacement = jnp.take_along_axis(valid_first, rank % count, axis=1)
    source = jnp.where(mask | ~mask.any(1, keepdims=True), jnp.arange(mask.shape[1])[None], replacement)
    return jnp.take_along_axis(image, source.reshape(*source.shape, *(1,) * (image.ndim - 2)), axis=1)


class PlaneEncoders(nn.Module):
    """One encoder per plane, called like a single encoder: (image [B*K,H,W,C], train) -> Features
    in the same order.

    encoders: by plane, all of one architecture; they become the submodules `encoders_<plane>`.
    image_planes: the plane of each of a subject's K images; images of a plane are adjacent.
    """

    encoders: Mapping[str, nn.Module]
    image_planes: tuple[str, ...]

    @property
    def levels(self) -> Mapping[str, str]:
        """The `levels` of one encoder: they hold for the submodules of every `encoders_<plane>`."""
        return next(iter(self.encoders.values())).levels

    def __call__(self, image: jax.Array, train: bool) -> Features:
        k = len(self.image_planes)
        if len(image) % k:
            raise ValueError(f"{len(image)} images do not divide into subjects with {k} images each")
        by_subject = image.reshape(-1, k, *image.shape[1:])
        plane_features, start = [], 0
        for plane, encoder in self.encoders.items():
            count = self.image_planes.count(plane)
            plane_images = by_subject[:, start : start + count]
            features = encoder(plane_images.reshape(-1, *image.shape[1:]), train)
            plane_features.append(jax.tree.map(lambda x, n=count: x.reshape(-1, n, *x.shape[1:]), features))
            start += count
        return jax.tree.map(lambda *x: jnp.concatenate(x, 1).reshape(len(image), *x[0].shape[2:]), *plane_features)


def mean_of_slices(pooled: jax.Array, mask: jax.Array) -> jax.Array:
    """[B,K,D], mask bool [B,K] -> float32 [B,D]: the mean of the valid slices; zero without valid
    slices.
    """
    kept = jnp.where(mask[..., None], pooled.astype(jnp.float32), 0.0)
    return kept.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)


class SlicePool(nn.Module):
    """(features [B,K,D], mask bool [B,K]) -> [B,D]: the mean of the valid slices, or their
    attention-weighted mean.

    Attention as in Ilse et al. 2018 (arXiv:1802.04712, eq. 8): softmax over slices of w tanh(V f).
    """

    pooling: Literal["mean", "attention"] = "mean"
    hidden: int = 128

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        features = features.astype(jnp.float32)
        if self.pooling == "mean":
            return mean_of_slices(features, mask)
        if self.pooling != "attention":
            raise ValueError(f"pooling is 'mean' or 'attention', not {self.pooling!r}")
        score = nn.Dense(1, name="score")(jnp.tanh(nn.Dense(self.hidden, name="hidden")(features)))[..., 0]
        weight = jax.nn.softmax(jnp.where(mask, score, jnp.finfo(jnp.float32).min), axis=1)
        return jnp.where(mask[..., None], weight[..., None] * features, 0.0).sum(1)


class Segmenter(nn.Module):
    """(image [B,H,W,C], train, train_encoder=None) -> logits float32 [B,H,W,n_classes], predicted
    float32 [B,measures].

    The head (`layers.SubpixelConv`) goes from the decoder's resolution to that of the image.
    train_encoder: False freezes the encoder (running statistics are used and not updated, no
    gradient flows to it); None is the value of `train`.
    measures: number of table columns predicted from the pooled features. Above 0, the decoder is
    conditioned on the predictions, without a gradient from the segmentation to them: only their own
    loss trains them.
    """

    encoder: nn.Module
    decoder: nn.Module
    n_classes: int
    measures: int = 0
    measures_hidden: int = 64

    @nn.compact
    def __call__(self, image: jax.Array, train: bool, train_encoder: bool | None = None) -> tuple[jax.Array, jax.Array]:
        train_encoder = train if train_encoder is None else train_encoder
        features: Features = self.encoder(image, train and train_encoder)
        if not train_encoder:
            features = jax.lax.stop_gradient(features)
        predicted, condition = jnp.zeros((len(image), 0), jnp.float32), None
        if self.measures:
            pooled = features.pooled.astype(jnp.float32)
            hidden = nn.relu(nn.Dense(self.measures_hidden, name="measures_hidden")(pooled))
            predicted = nn.Dense(self.measures, name="measures_head")(hidden)
            condition = jax.lax.stop_gradient(predicted)
        x = self.decoder((image, *features.pyramid), train, condition)
        height, width = image.shape[1:3]
        logits = SubpixelConv(self.n_classes, round(height / x.shape[1]), name="head")(x.astype(jnp.float32))
        return logits[:, :height, :width], predicted
