"""Objectives on table columns: contrast of rows, prediction of columns from row or image."""

import jax.numpy as jnp

from morphojax.models.heads import ColumnsHead, ProbeHead, RegressionHead, RowHead, RowPairHead
from morphojax.objectives import classification, contrastive
from morphojax.objectives import columns as tabular
from morphojax.tasks.pretrain.objectives.base import Context, Objective, need


def scarf(context: Context, *, weight: float = 1.0, temperature: float = 0.1, features: int = 128) -> Objective:
    """NT-Xent between a row and its corrupted copy (SCARF: Bahri et al. 2022, arXiv:2106.15147)."""
    need("scarf", "temperature", temperature, above=True)
    log_temperature = float(jnp.log(temperature))

    def loss(out, info):
        return contrastive.nt_xent(out["first"], out["second"], log_temperature, info.valid)

    def pair(out, info):
        return {"first": out["first"], "second": out["second"]}, info.valid

    head = RowPairHead(features, dtype=context.dtype)
    return Objective(weight, head, loss, views=0, row_variants=("clean", "corrupted"), needs_table=True, pair=pair)


def masked_columns(context: Context, *, weight: float = 1.0) -> Objective:
    """Masked columns predicted from the visible columns of the row.

    config.table.mask_fraction sets how many are masked. Compare Du et al. 2024 (TIP,
    arXiv:2407.07582).
    """
    if context.table_tokens:
        head = ColumnsHead(context.cardinalities, dtype=context.dtype)
    else:
        head = RowHead(sum(context.cardinalities), dtype=context.dtype)
    return Objective(weight, head, _reconstruction(context), views=0, row_variants=("masked",), needs_table=True)


def cross_columns(
    context: Context, *, weight: float = 1.0, layers: int = 1, width: int = 64, heads: int = 4, level: int = -1
) -> Objective:
    """Masked columns predicted from the visible columns and the image, by cross-attention.

    level: level of the encoder's feature pyramid; 0 is the finest, -1 the coarsest.
    """
    if not context.table_tokens:
        raise ValueError(
            "config.objectives.cross_columns needs a token for every column: set config.model.table.encoder=transformer"
        )
    if layers < 1:
        raise ValueError(f"config.objectives.cross_columns.layers={layers}: give at least 1 layer of attention")
    head = ColumnsHead(context.cardinalities, layers, level, width, heads, dtype=context.dtype)
    return Objective(weight, head, _reconstruction(context), row_variants=("masked",), needs_table=True)


def regression(
    context: Context,
    *,
    weight: float = 1.0,
    columns: str = "all",
    hidden_units: int = 256,
    huber_delta: float = 0.0,
) -> Objective:
    """The continuous columns selected by `columns`, predicted from the image alone.

    huber_delta: Huber delta in standard deviations; larger errors count linearly. 0: squared
    errors.
    """
    context.need_table("regression")
    need("regression", "huber_delta", huber_delta)
    selected = context.schema.select(columns).names
    pairs = zip(context.schema.names, context.cardinalities, strict=True)
    indices = tuple(i for i, (name, k) in enumerate(pairs) if name in selected and k == 1)
    if not indices:
        raise ValueError(f"config.objectives.regression.columns={columns!r} selects no continuous column of the table")

    def loss(out, info):
        return tabular.regression(
            out["prediction"], info.values, info.missing, indices, huber_delta=huber_delta or None, valid=info.valid
        )

    return Objective(weight, RegressionHead(len(indices), hidden_units, dtype=context.dtype), loss, needs_table=True)


def probe(context: Context, *, weight: float = 1.0) -> Objective:
    """A linear classifier of the label on the pooled image features, to monitor them.

    A stop-gradient keeps it from changing the encoder.
    """
    context.need_label("probe")

    def loss(out, info):
        return classification.cross_entropy(out["prediction"], info.label, info.valid)

    return Objective(weight, ProbeHead(len(context.classes)), loss, monitor_only=True)


def _reconstruction(context: Context):
    def loss(out, info):
        return tabular.reconstruction(
            out["prediction"],
            info.values,
            info.missing,
            info.masked,
            context.cardinalities,
            valid=info.valid,
        )

    return loss
