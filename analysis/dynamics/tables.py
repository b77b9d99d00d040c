"""Tables of the dynamics of fine-tuning."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.dynamics.curves import image_to_mask, select
from analysis.dynamics.logs import DynamicsError

DICE = (0.5, 0.7, 0.8)
NOT_REACHED = "not reached"
_RUN = ["run", "line", "panel"]


def thresholds(text: str) -> tuple[float, ...]:
    """The values of Dice in a flag, as `0.5,0.7`. Raises DynamicsError for one outside 0 to 1."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 1 for value in values):
        raise DynamicsError(f"--dice={text}: give values of Dice above 0 and up to 1, as --dice=0.5,0.7")
    return tuple(sorted(set(values)))


def images_to_dice(log: pd.DataFrame, dice: Sequence[float]) -> pd.DataFrame:
    """A row per run and threshold: the first validation whose mean Dice reaches it.

    Columns: run, line, panel, dice, step and images of that validation (missing where none reaches
    it), best_dice, and images_in_all, those seen at the last validation. The Dice is of the EMA
    weights where the run keeps them. Runs that were never validated have no row.
    """
    rows = select(log, "dice")[0]
    rows = rows[rows["name"] == "mean"]
    found = []
    for key, of_run in rows.groupby(_RUN, sort=False):
        of_run = of_run.sort_values("step")
        for threshold in dice:
            reached = of_run[of_run["value"] >= threshold]
            first = reached.iloc[0] if len(reached) else {"step": np.nan, "images": np.nan}
            found.append(
                dict(zip(_RUN, key, strict=True))
                | {"dice": threshold, "step": first["step"], "images": first["images"]}
                | {"best_dice": of_run["value"].max(), "images_in_all": of_run["images"].iloc[-1]}
            )
    columns = pd.Index([*_RUN, "dice", "step", "images", "best_dice", "images_in_all"])
    return pd.DataFrame(found, columns=columns).astype({"step": "Int64", "images": "Int64"})


def last_cka(log: pd.DataFrame) -> pd.DataFrame:
    """A row per run: its linear CKA with the start of the run, at the last step that has it.

    Columns: run, line, panel, step, images, and the levels of the encoder from fine to coarse.
    """
    rows = select(log, "cka")[0].dropna(subset="value")
    last = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    wide = last.pivot_table(index=[*_RUN, "step", "images"], columns="name", values="value", sort=False)
    return wide[sorted(wide.columns, key=image_to_mask)].rename_axis(columns=None).reset_index()
