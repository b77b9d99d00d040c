"""Objectives that contrast or match images with table rows."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp

from morphojax.models.heads import MatchingHead, PairHead
from morphojax.objectives import contrastive, embeddings, matching, targets
from morphojax.objectives import temperature as temperatures
from morphojax.tasks.pretrain.objectives.base import BatchInfo, Context, Objective, need

POSITIVES = ("own", "same_label", "nearest", "soft")
NEGATIVES = ("all", "other_labels", "unlike")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Choice of positives and negatives. Two rows of the same subject are never negatives.

    positives: `own` (the subject's own row); `same_label` (supervised: rows with the same label);
        `nearest` (also the k most similar rows at or above the threshold); `soft` (all rows,
        weighted by exp(similarity / softness)).
    negatives: `all`; `other_labels` (rows with another label); `unlike` (rows with a similarity
        below the threshold). The last two remove false negatives.
    only: for the binary variants of same_label and other_labels, the one class that is used; empty:
        all classes.
    continuous_weight: weight of the continuous columns in the similarity of two rows.
    """

    positives: str = "own"
    negatives: str = "all"
    only: str = ""
    k: int = 6
    threshold: float = 0.9
    softness: float = 0.1
    continuous_weight: float = 0.5

    def check(self, context: Context, name: str, given: Collection[str]) -> None:
        """Raises ValueError, naming the key, for an unknown choice, a choice that needs labels in a
        run without labels, a value out of range, or a `given` setting that has no effect.
        """
        for key, value, choices in (("positives", self.positives, POSITIVES), ("negatives", self.negatives, NEGATIVES)):
            if value not in choices:
                raise ValueError(f"config.objectives.{name}.{key}={value!r}: choose one of {', '.join(choices)}")
        chosen = {self.positives, self.negatives}
        used = {
            "only": chosen & {"same_label", "other_labels"},
            "k": chosen & {"nearest"},
            "threshold": chosen & {"nearest", "unlike"},
            "softness": chosen & {"soft"},
            "continuous_weight": chosen & {"nearest", "unlike", "soft"},
        }
        for key in given:
            if not used.get(key, True):
                raise ValueError(
                    f"config.objectives.{name}.{key} has no effect with positives={self.positives!r}, negatives={self.negatives!r}"
                )
        if used["only"]:
            context.need_label(name)
            if self.only and self.only not in context.classes:
                raise ValueError(
                    f"config.objectives.{name}.only={self.only!r}: the label's classes are {', '.join(context.classes)}"
                )
        need(name, "k", self.k, low=1)
        need(name, "threshold", self.threshold, low=0, high=1, above=True)  # at 0, padding would be a positive
        need(name, "softness", self.softness, above=True)
        need(name, "continuous_weight", self.continuous_weight, high=1)

    def __call__(self, info: BatchInfo, context: Context) -> tuple[jax.Array | None, jax.Array]:
        """positives [B,B] or None (each subject's own row), negatives bool [B,B]."""
        same_label = targets.same_label(info.label, context.classes.index(self.only) if self.only else None)
        negatives = targets.distinct(info.subject)
        if self.negatives == "other_labels":
            negatives &= ~same_label
        elif self.negatives == "unlike":
            negatives &= self._similarity(info, context) < self.threshold
        if self.positives == "own":
            return None, negatives
        if self.positives == "same_label":
            return same_label, negatives
        if self.positives == "nearest":
            return targets.nearest(self._similarity(info, context), self.k, self.threshold), negatives
        return targets.soft(self._similarity(info, context), self.softness), negatives

    def _similarity(self, info: BatchInfo, context: Context) -> jax.Array:
        missing = info.missing | ~info.valid[:, None]  # gives padding a similarity of 0 to all other rows
        return targets.table_similarity(info.values, missing, context.cardinalities, self.continuous_weight)


def info_nce(
    context: Context,
    *,
    weight: float = 1.0,
    image_to_table_weight: float = 0.5,
    temperature: float = 0.1,
    learned_temperature: bool = False,
    features: int = 128,
    **pairs,
) -> Objective:
    """Cross-entropy in both directions (CLIP; Hager et al. 2023, arXiv:2303.14080).

    `pairs`: see `Pairs`.
    """
    chosen = _pairs("info_nce", context, temperature, pairs)
    need("info_nce", "image_to_table_weight", image_to_table_weight, high=1)

    def loss(out, info):
        positives, negatives = chosen(info, context)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), image_to_table_weight, info.valid)
        value, metrics = contrastive.info_nce(*args, positives=positives, negatives=negatives)
        return value, metrics | _geometry(out, info)

    head = PairHead(features, temperature, learned_temperature, dtype=context.dtype)
    return Objective(weight, head, loss, row_variants=("augmented",), needs_table=True)


def sigmoid(
    context: Context,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    learned_temperature: bool = True,
    bias: float = -10.0,
    features: int = 128,
    **pairs,
) -> Objective:
    """Binary cross-entropy of every pair (SigLIP: Zhai et al. 2023, arXiv:2303.15343).

    `bias`: initial value of the learned bias.
    """
    chosen = _pairs("sigmoid", context, temperature, pairs)
    if chosen.positives == "soft":
        raise ValueError(
            "config.objectives.sigmoid.positives='soft': the sigmoid loss takes no weighted positives; choose nearest"
        )

    def loss(out, info):
        positives, negatives = chosen(info, context)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), out["bias"], info.valid)
        value, metrics = contrastive.sigmoid(*args, positives=positives, negatives=negatives)
        return value, metrics | _geometry(out, info)

    head = PairHead(features, temperature, learned_temperature, bias, dtype=context.dtype)
    return Objective(weight, head, loss, row_variants=("augmented",), needs_table=True)


def nt_xent(
    context: Context,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    learned_temperature: bool = False,
    features: int = 128,
    **pairs,
) -> Objective:
    """NT-Xent with image and table row as the two views (Chen et al. 2020, arXiv:2002.05709).

    Unlike in info_nce, an image has other images as negatives too, and a row other rows.
    """
    chosen = _pairs("nt_xent", context, temperature, pairs)

    def loss(out, info):
        positives, negatives = chosen(info, context)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), info.valid)
        value, metrics = contrastive.nt_xent(*args, positives=positives, negatives=negatives)
        return value, metrics | _geometry(out, info)

    head = PairHead(features, temperature, learned_temperature, dtype=context.dtype)
    return Objective(weight, head, loss, row_variants=("augmented",), needs_table=True)


def match(
    context: Context,
    *,
    weight: float = 1.0,
    image_to_table_weight: float = 0.5,
    temperature: float = 0.1,
    learned_temperature: bool = False,
    features: int = 128,
    width: int = 64,
    layers: int = 1,
) -> Objective:
    """The sum of InfoNCE and of image-table matching with hard negatives.

    After ALBEF (Li et al. 2021, arXiv:2107.07651). Matching classifies pairs as positive or
    negative. Negatives are sampled by their InfoNCE similarity.
    """
    _pairs("match", context, temperature, {})
    need("match", "image_to_table_weight", image_to_table_weight, high=1)

    def loss(out, info):
        negatives = targets.distinct(info.subject)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), image_to_table_weight, info.valid)
        contrast, metrics = contrastive.info_nce(*args, negatives=negatives)
        wrong = jnp.concatenate([out["wrong_table"], out["wrong_image"]])
        exists = jnp.concatenate([out["table_exists"] & info.valid, out["image_exists"] & info.valid])
        value, answers = matching.matching(out["true"], wrong, info.valid, exists)
        return contrast + value, metrics | {"loss_contrast": contrast, "loss_matching": value, **answers}

    def pair(out, info):
        return {"image": out["image"], "table": out["table"]}, info.valid

    head = MatchingHead(
        pair=PairHead(features, temperature, learned_temperature, dtype=context.dtype),
        draw=matching.hard_negatives,
        width=width,
        layers=layers,
        dtype=context.dtype,
    )
    return Objective(weight, head, loss, row_variants=("augmented",), needs_table=True, pair=pair)


def _pairs(name: str, context: Context, temperature: float, pairs: dict) -> Pairs:
    need(name, "temperature", temperature, above=True)
    chosen = Pairs(**pairs)
    chosen.check(context, name, pairs)
    return chosen


def _temperature(out, learned: bool) -> jax.Array:
    """The log temperature, clipped if it is learned."""
    return temperatures.clip_log_temperature(out["log_temperature"]) if learned else out["log_temperature"]


def _geometry(out, info: BatchInfo) -> dict[str, jax.Array]:
    """Metrics of the embeddings on the sphere: alignment of pairs, uniformity, modality gap."""
    image, table, valid = out["image"], out["table"], info.valid
    return {
        "alignment": embeddings.alignment(image, table, valid),
        "uniformity_image": embeddings.uniformity(image, valid),
        "uniformity_table": embeddings.uniformity(table, valid),
        "modality_gap": embeddings.modality_gap(image, table, valid),
    }
