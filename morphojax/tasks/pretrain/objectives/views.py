"""Objectives on images only: two views of a slice, masked patches, planes of a subject."""

import math

import jax

from morphojax.models.heads import PatchHead, PlaneHead, PrototypeHead, RegionHead, ViewHead
from morphojax.objectives import clustering, contrastive, local, reconstruction, redundancy, self_distillation, targets
from morphojax.tasks.pretrain.objectives.base import BatchInfo, Context, Objective, need


def simclr(
    context: Context,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    features: int = 128,
    partitions: int = 0,
    only_between_partitions: bool = False,
) -> Objective:
    """NT-Xent (Chen et al. 2020, arXiv:2002.05709).

    partitions: cut every stack into so many equal parts; slices of the same part and plane are
        positives, across subjects too (after Chaitanya et al. 2020, arXiv:2006.10511). 0: off.
    only_between_partitions: such slices are not positives, only left out of the negatives.
    """
    need("simclr", "temperature", temperature, above=True)
    need("simclr", "partitions", partitions, low=1 if only_between_partitions else 0)
    log_temperature = math.log(temperature)

    def loss(out, info):
        positives = negatives = None
        if partitions:
            same_part = targets.by_partition(info.position.reshape(-1), partitions)
            same_part &= context.same_plane(len(info.subject))
            positives, negatives = (None, ~same_part) if only_between_partitions else (same_part, None)
        return contrastive.nt_xent(
            out["first"], out["second"], log_temperature, info.valid_slices, positives=positives, negatives=negatives
        )

    return Objective(weight, ViewHead(features, dtype=context.dtype), loss, views=2, pair=_two_views)


def byol(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 256,
    hidden_units: int = 4096,
    momentum: float = 0.9996,
) -> Objective:
    """One view predicts the EMA teacher's embedding of the other.

    Grill et al. 2020 (arXiv:2006.07733).

    momentum: initial momentum of the teacher; it rises to 1 over the run.
    """
    need("byol", "momentum", momentum, high=1 - 1e-9)

    def loss(out, info):
        target = out["target"]
        args = (out["prediction_first"], out["prediction_second"], target["first"], target["second"])
        return self_distillation.byol(*args, valid=info.valid_slices)

    def momentum_at(step: jax.Array, steps: int) -> jax.Array:
        return self_distillation.momentum(step, steps, momentum)

    head = ViewHead(features, hidden_units, predictor_hidden_units=hidden_units, dtype=context.dtype)
    return Objective(weight, head, loss, views=2, momentum=momentum_at, pair=_two_views)


def simsiam(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 2048,
    hidden_units: int = 2048,
    predictor_hidden_units: int = 512,
) -> Objective:
    """One view predicts the other, without teacher (Chen and He 2021, arXiv:2011.10566)."""

    def loss(out, info):
        args = (out["prediction_first"], out["prediction_second"], out["first"], out["second"])
        return self_distillation.simsiam(*args, valid=info.valid_slices)

    head = ViewHead(
        features, hidden_units, 3, norm_last=True, predictor_hidden_units=predictor_hidden_units, dtype=context.dtype
    )
    return Objective(weight, head, loss, views=2, pair=_two_views)


def barlow_twins(
    context: Context,
    *,
    weight: float = 1.0,
    features: int = 8192,
    hidden_units: int = 8192,
    redundancy_weight: float = 5e-3,
) -> Objective:
    """Equal and decorrelated features of two views (Zbontar et al. 2021, arXiv:2103.03230)."""
    need("barlow_twins", "redundancy_weight", redundancy_weight)

    def loss(out, info):
        return redundancy.barlow_twins(out["first"], out["second"], redundancy_weight, info.valid_slices)

    return Objective(weight, ViewHead(features, hidden_units, 3, dtype=context.dtype), loss, views=2, pair=_two_views)


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
    """Invariance, variance and covariance terms (Bardes et al. 2022, arXiv:2105.04906)."""
    for key, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        need("vicreg", key, value)

    def loss(out, info):
        args = (out["first"], out["second"], invariance, variance, covariance, info.valid_slices)
        return redundancy.vicreg(*args)

    return Objective(weight, ViewHead(features, hidden_units, 3, dtype=context.dtype), loss, views=2, pair=_two_views)


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
    """Each view predicts the other's prototypes (SwAV: Caron et al. 2020, arXiv:2006.09882).

    Two views, no multi-crop and no queue.
    """
    need("swav", "temperature", temperature, above=True)
    need("swav", "epsilon", epsilon, above=True)
    need("swav", "iterations", iterations, low=1)

    def loss(out, info):
        args = (out["first"], out["second"], temperature, epsilon, iterations, info.valid_slices)
        return clustering.swav(*args)

    def pair(out, info):
        return {"first": out["embedding_first"], "second": out["embedding_second"]}, info.valid_slices

    head = PrototypeHead(prototypes, features, hidden_units, dtype=context.dtype)
    return Objective(weight, head, loss, views=2, pair=pair)


def regional(
    context: Context, *, weight: float = 1.0, temperature: float = 0.1, features: int = 64, region: int = 4
) -> Objective:
    """Local contrast of regions of the decoder's map within a slice.

    Chaitanya et al. 2020 (arXiv:2006.10511).
    region: side of a region, in pixels of the decoder's map.
    """
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
    """Masked patches predicted from the visible ones (MAE: He et al. 2022, arXiv:2111.06377).

    config.model.patch_mask_fraction sets how many patches are masked. normalise: predict pixels
    standardised per patch.
    """
    if not context.patch:
        raise ValueError(
            "config.objectives.masked_patches needs an encoder that can mask patches, set in config.model.encoder: "
            "choose vit_tiny or vit_small"
        )

    def loss(out, info):
        args = (out["prediction"], out["image"], out["masked"], context.patch, normalise, info.valid_slices)
        return reconstruction.masked_patches(*args)

    head = PatchHead(context.patch, context.channels, width, depth, heads, dtype=context.dtype)
    return Objective(weight, head, loss, views=0, masked_patches=True, whole_validation_set=False)


def planes(context: Context, *, weight: float = 1.0, temperature: float = 0.1, features: int = 128) -> Objective:
    """Symmetric InfoNCE between the planes of subjects, averaged over all pairs of planes.

    After Tian et al. 2020 (arXiv:1906.05849). A missing plane is left out.
    """
    need("planes", "temperature", temperature, above=True)
    if len(context.planes) < 2:
        raise ValueError(
            "config.objectives.planes needs at least two planes: set config.data.plane, for example to sax,la_4ch"
        )
    log_temperature = math.log(temperature)

    def loss(out, info):
        return contrastive.between_planes(
            out["embedding"], out["present"] & info.valid[:, None], log_temperature, targets.distinct(info.subject)
        )

    return Objective(weight, PlaneHead(features, context.image_planes, dtype=context.dtype), loss, views=1)


def _two_views(out, info: BatchInfo) -> tuple[dict[str, jax.Array], jax.Array]:
    """The embeddings of the slices of two views, see `Objective.pair`."""
    return {"first": out["first"], "second": out["second"]}, info.valid_slices
