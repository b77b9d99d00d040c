"""The pretraining objectives by their names in `config.objectives`."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from morphojax.tasks.pretrain.objectives import columns, pairs, views
from morphojax.tasks.pretrain.objectives.base import BatchInfo, Context, Objective

__all__ = ["OBJECTIVES", "BatchInfo", "Context", "Objective", "from_config"]

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    # image-table contrast
    "info_nce": pairs.info_nce,
    "sigmoid": pairs.sigmoid,
    "nt_xent": pairs.nt_xent,
    "match": pairs.match,
    # images only
    "simclr": views.simclr,
    "byol": views.byol,
    "simsiam": views.simsiam,
    "barlow_twins": views.barlow_twins,
    "vicreg": views.vicreg,
    "swav": views.swav,
    "regional": views.regional,
    "masked_patches": views.masked_patches,
    "planes": views.planes,
    # prediction or contrast of table columns
    "scarf": columns.scarf,
    "masked_columns": columns.masked_columns,
    "cross_columns": columns.cross_columns,
    "regression": columns.regression,
    # monitoring
    "probe": columns.probe,
}


def from_config(objectives: Mapping[str, Mapping[str, Any]], context: Context) -> dict[str, Objective]:
    """The objectives of `config.objectives` = {name: settings}.

    Raises:
        ValueError: an unknown name or setting, a setting out of range, weights that are negative or
            all zero, or a requirement of an objective that the run does not meet (labels, patches,
            a token per column). The message names the key.
    """
    if not objectives:
        raise ValueError(f"config.objectives is empty: give some of {', '.join(OBJECTIVES)}")
    built = {}
    for name, settings in objectives.items():
        if name not in OBJECTIVES:
            raise ValueError(f"config.objectives.{name} is unknown: choose among {', '.join(OBJECTIVES)}")
        try:
            built[name] = OBJECTIVES[name](context, **settings)
        except TypeError as error:
            settings_known = [
                p.name for p in inspect.signature(OBJECTIVES[name]).parameters.values() if p.name != "context"
            ]
            raise ValueError(f"config.objectives.{name}: {error}. It takes {', '.join(settings_known)}") from error
        if built[name].needs_table:
            context.need_table(name)
    unaligned = [name for name, o in built.items() if o.views == 2 and not o.aligned]
    if unaligned and any(o.aligned for o in built.values()):
        raise ValueError(
            f"config.objectives: regional needs two views with the same geometry, {', '.join(unaligned)} two views "
            "with different geometry: train them one after the other (config.init_from)"
        )
    weights = {name: objective.weight for name, objective in built.items()}
    if any(not math.isfinite(w) or w < 0 for w in weights.values()) or not sum(weights.values()) > 0:
        raise ValueError(f"config.objectives: weights must be 0 or more and not all 0, got {weights}")
    return built
