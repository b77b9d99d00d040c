"""Image against table row: who belongs to whom."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp

from morphojax.models.heads import MatchingHead, PairHead
from morphojax.objectives import contrastive, embeddings, matching, targets
from morphojax.train.terms.base import Context, Facts, Term, need

POSITIVES = ("own", "same_label", "nearest", "soft")
RIVALS = ("all", "other_labels", "unlike")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Who is a positive of whom, and who is a rival, in words of a config. Two rows of one subject are never rivals.

    positives: own; same_label (supervised); nearest (the k most similar rows at or above the threshold); or soft (by
        similarity / softness). rivals: all; other_labels; or unlike, rows below the threshold of similarity (both removals of false
        negatives).
    only: the one class that counts as a label, for the binary variants of both; empty: all classes.
    continuous_share: weight of the continuous columns in the similarity of two rows.
    """

    positives: str = "own"
    rivals: str = "all"
    only: str = ""
    k: int = 6
    threshold: float = 0.9
    softness: float = 0.1
    continuous_share: float = 0.5

    def check(self, context: Context, name: str, given: Collection[str]) -> None:
        """Raises ValueError, naming the key, for a choice that does not exist or that needs labels where there are none, and for one
        of the `given` settings that the choice would ignore."""
        for key, value, choices in (("positives", self.positives, POSITIVES), ("rivals", self.rivals, RIVALS)):
            if value not in choices:
                raise ValueError(f"config.objectives.{name}.{key}={value!r}: choose one of {', '.join(choices)}")
        chosen = {self.positives, self.rivals}
        used = {
            "only": chosen & {"same_label", "other_labels"},
            "k": chosen & {"nearest"},
            "threshold": chosen & {"nearest", "unlike"},
            "softness": chosen & {"soft"},
            "continuous_share": chosen & {"nearest", "unlike", "soft"},
        }
        for key in given:
            if not used.get(key, True):
                raise ValueError(
                    f"config.objectives.{name}.{key} has no effect with positives={self.positives!r}, rivals={self.rivals!r}"
                )
        if used["only"]:
            context.need_label(name)
            if self.only and self.only not in context.classes:
                raise ValueError(
                    f"config.objectives.{name}.only={self.only!r}: the label's classes are {', '.join(context.classes)}"
                )
        need(name, "k", self.k, low=1)
        need(name, "threshold", self.threshold, low=0, high=1, above=True)  # at 0 padding would be like everybody
        need(name, "softness", self.softness, above=True)
        need(name, "continuous_share", self.continuous_share, high=1)

    def __call__(self, facts: Facts, context: Context) -> tuple[jax.Array | None, jax.Array]:
        """positives [B,B] or None (each its own), rivals bool [B,B]."""
        alike = targets.same_label(facts.label, context.classes.index(self.only) if self.only else None)
        rivals = targets.distinct(facts.subject)
        if self.rivals == "other_labels":
            rivals &= ~alike
        elif self.rivals == "unlike":
            rivals &= self._similarity(facts, context) < self.threshold
        if self.positives == "own":
            return None, rivals
        if self.positives == "same_label":
            return alike, rivals
        if self.positives == "nearest":
            return targets.nearest(self._similarity(facts, context), self.k, self.threshold), rivals
        return targets.soft(self._similarity(facts, context), self.softness), rivals

    def _similarity(self, facts: Facts, context: Context) -> jax.Array:
        missing = facts.missing | ~facts.valid[:, None]  # padding is like nobody
        return targets.table_similarity(facts.values, missing, context.cardinalities, self.continuous_share)


def info_nce(
    context: Context,
    *,
    weight: float = 1.0,
    share: float = 0.5,
    temperature: float = 0.1,
    learned_temperature: bool = False,
    features: int = 128,
    **pairs,
) -> Term:
    """Cross-entropy both ways (Hager et al. 2023). `pairs`: see `Pairs`."""
    chosen = _pairs("info_nce", context, temperature, pairs)
    need("info_nce", "share", share, high=1)

    def loss(out, facts):
        positives, rivals = chosen(facts, context)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), share, facts.valid)
        value, metrics = contrastive.info_nce(*args, positives=positives, rivals=rivals)
        return value, metrics | _spread(out, facts)

    head = PairHead(features, temperature, learned_temperature, dtype=context.dtype)
    return Term(weight, head, loss, rows=("augmented",), table=True)


def sigmoid(
    context: Context,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    learned_temperature: bool = True,
    bias: float = -10.0,
    features: int = 128,
    **pairs,
) -> Term:
    """Every pair judged by itself (Zhai et al. 2023). `bias` is where the learned one begins."""
    chosen = _pairs("sigmoid", context, temperature, pairs)
    if chosen.positives == "soft":
        raise ValueError(
            "config.objectives.sigmoid.positives='soft': a pair is a positive or it is not; choose nearest"
        )

    def loss(out, facts):
        positives, rivals = chosen(facts, context)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), out["bias"], facts.valid)
        value, metrics = contrastive.sigmoid(*args, positives=positives, rivals=rivals)
        return value, metrics | _spread(out, facts)

    head = PairHead(features, temperature, learned_temperature, bias, dtype=context.dtype)
    return Term(weight, head, loss, rows=("augmented",), table=True)


def nt_xent(
    context: Context,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    learned_temperature: bool = False,
    features: int = 128,
    **pairs,
) -> Term:
    """As SimCLR, with image and row as the two views: images are told from images too, rows from rows."""
    chosen = _pairs("nt_xent", context, temperature, pairs)

    def loss(out, facts):
        positives, rivals = chosen(facts, context)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), facts.valid)
        value, metrics = contrastive.nt_xent(*args, positives=positives, rivals=rivals)
        return value, metrics | _spread(out, facts)

    head = PairHead(features, temperature, learned_temperature, dtype=context.dtype)
    return Term(weight, head, loss, rows=("augmented",), table=True)


def match(
    context: Context,
    *,
    weight: float = 1.0,
    share: float = 0.5,
    temperature: float = 0.1,
    learned_temperature: bool = False,
    features: int = 128,
    width: int = 64,
    layers: int = 1,
) -> Term:
    """InfoNCE, and whether a row belongs to an image, asked of true pairs and of those InfoNCE mistakes most easily
    (Li et al. 2021, ALBEF): the sum of both."""
    _pairs("match", context, temperature, {})
    need("match", "share", share, high=1)

    def loss(out, facts):
        rivals = targets.distinct(facts.subject)
        args = (out["image"], out["table"], _temperature(out, learned_temperature), share, facts.valid)
        contrast, metrics = contrastive.info_nce(*args, rivals=rivals)
        wrong = jnp.concatenate([out["wrong_table"], out["wrong_image"]])
        exists = jnp.concatenate([out["table_exists"] & facts.valid, out["image_exists"] & facts.valid])
        value, answers = matching.matching(out["true"], wrong, facts.valid, exists)
        return contrast + value, metrics | {"loss_contrast": contrast, "loss_matching": value, **answers}

    head = MatchingHead(
        pair=PairHead(features, temperature, learned_temperature, dtype=context.dtype),
        draw=matching.hard_negatives,
        width=width,
        layers=layers,
        dtype=context.dtype,
    )
    return Term(weight, head, loss, rows=("augmented",), table=True)


def _pairs(name: str, context: Context, temperature: float, pairs: dict) -> Pairs:
    need(name, "temperature", temperature, above=True)
    chosen = Pairs(**pairs)
    chosen.check(context, name, pairs)
    return chosen


def _temperature(out, learned: bool) -> jax.Array:
    """The log of it: a learned one within its bounds, a given one as it is."""
    return contrastive.clip_log_temperature(out["log_temperature"]) if learned else out["log_temperature"]


def _spread(out, facts: Facts) -> dict[str, jax.Array]:
    """How the two modalities lie on the sphere: close pairs, evenly spread, apart or together."""
    image, table, valid = out["image"], out["table"], facts.valid
    return {
        "alignment": embeddings.alignment(image, table, valid),
        "uniformity_image": embeddings.uniformity(image, valid),
        "uniformity_table": embeddings.uniformity(table, valid),
        "modality_gap": embeddings.modality_gap(image, table, valid),
    }
