"""What stands around an image encoder: padded stacks, pooled slices, and the segmenter, whose encoder is the submodule `encoder`."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from morphojax.models.features import Features
from morphojax.models.unet import unfold


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


class PlaneEncoders(nn.Module):
    """An encoder for each plane, as one: (image [B*K,H,W,C], train) -> Features of the same order.

    encoders: by plane, alike in shape. image_planes: the plane of each of the K images of a subject, those of a plane together.
    """

    encoders: Mapping[str, nn.Module]
    image_planes: tuple[str, ...]

    def __call__(self, image: jax.Array, train: bool) -> Features:
        k = len(self.image_planes)
        if len(image) % k:
            raise ValueError(f"{len(image)} images are not whole subjects of {k}")
        by_subject = image.reshape(-1, k, *image.shape[1:])
        found, start = [], 0
        for plane, encoder in self.encoders.items():
            count = self.image_planes.count(plane)
            part = by_subject[:, start : start + count]
            features = encoder(part.reshape(-1, *image.shape[1:]), train)
            found.append(jax.tree.map(lambda x, n=count: x.reshape(-1, n, *x.shape[1:]), features))
            start += count
        return jax.tree.map(lambda *x: jnp.concatenate(x, 1).reshape(len(image), *x[0].shape[2:]), *found)


def mean_of_slices(pooled: jax.Array, mask: jax.Array) -> jax.Array:
    """[B,K,D], mask bool [B,K] -> float32 [B,D]: the mean over the slices that are there; zero where there is none."""
    kept = jnp.where(mask[..., None], pooled.astype(jnp.float32), 0.0)
    return kept.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)


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
            return mean_of_slices(features, mask)
        if self.pooling != "attention":
            raise ValueError(f"pooling is 'mean' or 'attention', not {self.pooling!r}")
        score = nn.Dense(1, name="score")(jnp.tanh(nn.Dense(self.hidden, name="hidden")(features)))[..., 0]
        weight = jax.nn.softmax(jnp.where(mask, score, jnp.finfo(jnp.float32).min), axis=1)
        return jnp.where(mask[..., None], weight[..., None] * features, 0.0).sum(1)


class Segmenter(nn.Module):
    """(image [B,H,W,C], train, train_encoder=None) -> logits float32 [B,H,W,n_classes], predicted float32 [B,measures].

    train_encoder False freezes the encoder: running statistics that are used and not updated, and no gradient.
    None: as `train`. With `measures` above 0 as many numbers are predicted from the pooled features, and the decoder is conditioned
    on them; the segmentation does not bend them, so that they mean what their own loss asks of them.
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
            hidden = nn.relu(
                nn.Dense(self.measures_hidden, name="measures_hidden")(features.pooled.astype(jnp.float32))
            )
            predicted = nn.Dense(self.measures, name="measures_head")(hidden)
            condition = jax.lax.stop_gradient(predicted)
        x = self.decoder((image, *features.pyramid), train, condition)
        height, width = image.shape[1:3]
        stride = round(height / x.shape[1])
        logits = nn.Dense(stride**2 * self.n_classes, name="head")(x.astype(jnp.float32))
        return unfold(logits, stride, height, width), predicted
