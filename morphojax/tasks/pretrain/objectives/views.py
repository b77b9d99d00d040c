"""Images alone: two views of a slice, a slice and its hidden patches, or two planes of a heart."""

import math

import jax

from morphojax.models.heads import PatchHead, PlaneHead, PrototypeHead, RegionHead, ViewHead
from morphojax.objectives import clustering, contrastive, local, reconstruction, redundancy, self_distillation, targets
from morphojax.tasks.pretrain.objectives.base import Context, Objective, need


def simclr(
    context: Context,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    features: int = 128,
    partitions: int = 0,
    only_between_partitions: bool = False,
) -> Objective:
    """NT-Xent (Chen et al. 2020). With `partitions` slices at the same part of the heart's length are positives of one another,
    across subjects (after Chaitanya et al. 2020), or, `only_between_partitions`, merely no negatives."""
    need("simclr", "temperature", temperature, above=True)
    need("simclr", "partitions", partitions, low=1 if only_between_partitions else 0)
    log_temperature = math.log(temperature)

    def loss(out, info):
        positives = negatives = None
        if partitions:
            alike = targets.by_partition(info.position.reshape(-1), partitions)
            alike &= context.same_plane(len(info.subject))
            positives, negatives = (None, ~alike) if only_between_partitions else (alike, None)
        return contrastive.nt_xent(
            out["first"], out["second"], log_temperature, info.valid_slices, positives=positives, negatives=negatives
        )

    return Objective(weight, ViewHead(features, dtype=context.dtype), loss, views=2)


def byol(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 256,
    hidden_units: int = 4096,
    momentum: float = 0.9996,
) -> Objective:
    """Predicting what a slow average of oneself makes of the other view (Grill et al. 2020). `momentum` is where it begins."""
    need("byol", "momentum", momentum, high=1 - 1e-9)

    def loss(out, info):
        target = out["target"]
        args = (out["prediction_first"], out["prediction_second"], target["first"], target["second"])
        return self_distillation.byol(*args, valid=info.valid_slices)

    def kept(step: jax.Array, steps: int) -> jax.Array:
        return self_distillation.momentum(step, steps, momentum)

    head = ViewHead(features, hidden_units, predictor_hidden_units=hidden_units, dtype=context.dtype)
    return Objective(weight, head, loss, views=2, momentum=kept)


def simsiam(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 2048,
    hidden_units: int = 2048,
    predictor_hidden_units: int = 512,
) -> Objective:
    """Predicting the other view, without negatives and without an average (Chen and He 2021)."""

    def loss(out, info):
        args = (out["prediction_first"], out["prediction_second"], out["first"], out["second"])
        return self_distillation.simsiam(*args, valid=info.valid_slices)

    head = ViewHead(
        features, hidden_units, 3, norm_last=True, predictor_hidden_units=predictor_hidden_units, dtype=context.dtype
    )
    return Objective(weight, head, loss, views=2)


def barlow_twins(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 8192,
    hidden_units: int = 8192,
    redundancy_weight: float = 5e-3,
) -> Objective:
    """Equal features across views, no two features alike (Zbontar et al. 2021)."""
    need("barlow_twins", "redundancy_weight", redundancy_weight)

    def loss(out, info):
        return redundancy.barlow_twins(out["first"], out["second"], redundancy_weight, info.valid_slices)

    return Objective(weight, ViewHead(features, hidden_units, 3, dtype=context.dtype), loss, views=2)


def vicreg(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 8192,
    hidden_units: int = 8192,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Objective:
    """Invariance, variance, covariance (Bardes et al. 2022)."""
    for key, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        need("vicreg", key, value)

    def loss(out, info):
        args = (out["first"], out["second"], invariance, variance, covariance, info.valid_slices)
        return redundancy.vicreg(*args)

    return Objective(weight, ViewHead(features, hidden_units, 3, dtype=context.dtype), loss, views=2)


def swav(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 128,
    hidden_units: int = 2048,
    prototypes: int = 3000,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Objective:
    """Predicting a view's cluster from the other (Caron et al. 2020), with two views and no queue."""
    need("swav", "temperature", temperature, above=True)
    need("swav", "epsilon", epsilon, above=True)
    need("swav", "iterations", iterations, low=1)

    def loss(out, info):
        args = (out["first"], out["second"], temperature, epsilon, iterations, info.valid_slices)
        return clustering.swav(*args)

    return Objective(weight, PrototypeHead(prototypes, features, hidden_units, dtype=context.dtype), loss, views=2)


def regional(
    context: Context, *, weight: float = 1.0, temperature: float = 0.1, features: int = 64, region: int = 4
) -> Objective:
    """Every region of the decoder's map against the others of its slice (Chaitanya et al. 2020, local contrast)."""
    need("regional", "temperature", temperature, above=True)
    need("regional", "region", region, low=1)
    log_temperature = math.log(temperature)

    def loss(out, info):
        return local.regional(out["first"], out["second"], log_temperature, region, valid=info.valid_slices)

    head = RegionHead(features, dtype=context.dtype)
    return Objective(weight, head, loss, views=2, aligned=True, needs_decoder=True, whole_validation_set=False)


def masked_patches(
    context: Context, *, weight: float = 1.0, width: int = 128, depth: int = 2, heads: int = 4, normalise: bool = True
) -> Objective:
    """Telling the hidden patches from the visible ones (He et al. 2022). Their share is config.model.patch_mask_fraction."""
    if not context.patch:
        raise ValueError(
            "config.objectives.masked_patches hides patches from the encoder, which config.model.encoder cannot: "
            "choose vit_tiny or vit_small"
        )

    def loss(out, info):
        args = (out["prediction"], out["image"], out["masked"], context.patch, normalise, info.valid_slices)
        return reconstruction.masked_patches(*args)

    head = PatchHead(context.patch, context.channels, width, depth, heads, dtype=context.dtype)
    return Objective(weight, head, loss, views=0, masked_patches=True, whole_validation_set=False)


def planes(context: Context, *, weight: float = 1.0, temperature: float = 0.1, features: int = 128) -> Objective:
    """The planes of one subject against those of others: symmetric InfoNCE for every two planes, the mean over these. A subject counts
    for the planes that it has."""
    need("planes", "temperature", temperature, above=True)
    if len(context.planes) < 2:
        raise ValueError("config.objectives.planes needs two planes or more: config.data.plane, as in 'sax,la_4ch'")
    log_temperature = math.log(temperature)

    def loss(out, info):
        return contrastive.between_planes(
            out["embedding"], out["present"] & info.valid[:, None], log_temperature, targets.distinct(info.subject)
        )

    return Objective(weight, PlaneHead(features, context.image_planes, dtype=context.dtype), loss, views=1)
