"""Table columns: told from other columns, or from the image."""

import jax.numpy as jnp

from morphojax.models.heads import ColumnsHead, ProbeHead, RegressionHead, RowHead, RowPairHead
from morphojax.objectives import classification, contrastive
from morphojax.objectives import columns as tabular
from morphojax.tasks.pretrain.objectives.base import Context, Objective, need


def scarf(context: Context, *, weight: float = 1.0, temperature: float = 0.1, features: int = 128) -> Objective:
    """A row against its corrupted copy, by NT-Xent (Bahri et al. 2022)."""
    need("scarf", "temperature", temperature, above=True)
    log_temperature = float(jnp.log(temperature))

    def loss(out, info):
        return contrastive.nt_xent(out["first"], out["second"], log_temperature, info.valid)

    head = RowPairHead(features, dtype=context.dtype)
    return Objective(weight, head, loss, views=0, row_variants=("clean", "corrupted"), needs_table=True)


def masked_columns(context: Context, *, weight: float = 1.0) -> Objective:
    """Hidden columns told from the visible ones of the row alone (cf. Du et al. 2024, TIP). Their share is config.table.mask_fraction."""
    if context.table_tokens:
        head = ColumnsHead(context.cardinalities, dtype=context.dtype)
    else:
        head = RowHead(sum(context.cardinalities), dtype=context.dtype)
    return Objective(weight, head, _reconstruction(context), views=0, row_variants=("masked",), needs_table=True)


def cross_columns(
    context: Context, *, weight: float = 1.0, layers: int = 1, width: int = 64, heads: int = 4, level: int = -1
) -> Objective:
    """Hidden columns told from the visible ones and from the feature map, to whose places the column tokens attend.

    level: of the encoder's pyramid, finest 0, coarsest -1.
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
    delta: float = 0.0,
) -> Objective:
    """The continuous columns that `columns` selects, told from the image alone; the table is only the answer.

    delta: beyond so many standard deviations an error counts linearly (Huber); 0: squared throughout.
    """
    context.need_table("regression")
    need("regression", "delta", delta)
    wanted = context.schema.select(columns).names
    pairs = zip(context.schema.names, context.cardinalities, strict=True)
    chosen = tuple(i for i, (name, k) in enumerate(pairs) if name in wanted and k == 1)
    if not chosen:
        raise ValueError(f"config.objectives.regression.columns={columns!r} selects no continuous column of the table")

    def loss(out, info):
        return tabular.regression(
            out["prediction"], info.values, info.missing, chosen, delta=delta or None, valid=info.valid
        )

    return Objective(weight, RegressionHead(len(chosen), hidden_units, dtype=context.dtype), loss, needs_table=True)


def probe(context: Context, *, weight: float = 1.0) -> Objective:
    """What a linear model can read of the label off the encoder's features, learned alongside; the encoder feels nothing of it."""
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
