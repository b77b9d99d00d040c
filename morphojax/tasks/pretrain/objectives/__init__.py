"""The objectives of pretraining by the names that a config gives them. Each is (Context, **settings) -> Objective."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from morphojax.tasks.pretrain.objectives import columns, pairs, views
from morphojax.tasks.pretrain.objectives.base import BatchInfo, Context, Objective

__all__ = ["OBJECTIVES", "BatchInfo", "Context", "Objective", "build"]

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    # image against table
    "info_nce": pairs.info_nce,
    "sigmoid": pairs.sigmoid,
    "nt_xent": pairs.nt_xent,
    "match": pairs.match,
    # images alone
    "simclr": views.simclr,
    "byol": views.byol,
    "simsiam": views.simsiam,
    "barlow_twins": views.barlow_twins,
    "vicreg": views.vicreg,
    "swav": views.swav,
    "regional": views.regional,
    "masked_patches": views.masked_patches,
    "planes": views.planes,
    # table columns
    "scarf": columns.scarf,
    "masked_columns": columns.masked_columns,
    "cross_columns": columns.cross_columns,
    "regression": columns.regression,
    # read along
    "probe": columns.probe,
}


def build(objectives: Mapping[str, Mapping[str, Any]], context: Context) -> dict[str, Objective]:
    """The terms of `config.objectives`, {name: settings}.

    Raises:
        ValueError: an unknown name or setting, a setting out of range, weights that are negative or all zero, or what an
            objective needs and the run has not (labels, patches, a token per column). The message names the key.
    """
    if not objectives:
        raise ValueError(f"config.objectives is empty: give some of {', '.join(OBJECTIVES)}")
    terms = {}
    for name, settings in objectives.items():
        if name not in OBJECTIVES:
            raise ValueError(f"config.objectives.{name} is unknown: choose among {', '.join(OBJECTIVES)}")
        try:
            terms[name] = OBJECTIVES[name](context, **settings)
        except TypeError as error:
            known = [p.name for p in inspect.signature(OBJECTIVES[name]).parameters.values() if p.name != "context"]
            raise ValueError(f"config.objectives.{name}: {error}. It takes {', '.join(known)}") from error
        if terms[name].needs_table:
            context.need_table(name)
    unlike = [name for name, t in terms.items() if t.views == 2 and not t.aligned]
    if unlike and any(t.aligned for t in terms.values()):
        raise ValueError(
            f"config.objectives: regional needs two views of the same place, {', '.join(unlike)} two of different ones: "
            "train them one after the other (config.init_from)"
        )
    weights = {name: term.weight for name, term in terms.items()}
    if any(not math.isfinite(w) or w < 0 for w in weights.values()) or not sum(weights.values()) > 0:
        raise ValueError(f"config.objectives: weights must be 0 or more and not all 0, got {weights}")
    return terms
