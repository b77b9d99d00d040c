"""Summary of a split: means with intervals, agreement of clinical measures, and their text.

It holds no subject ids.
"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.evaluation import agreement, clinical, statistics

POOLED, MEAN = "pooled", "mean"
METRICS = ("dice", "surface_dice", "hd95_mm", "hd95_directed_mm", "assd_mm")
CONVENTIONS = {
    "both_empty": "not counted",
    "one_empty": "Dice and surface Dice 0, distances the image diagonal in mm; counted in the mean",
    "hd95_mm": "95th percentile of the distances of both directions pooled (medpy)",
    "hd95_directed_mm": "larger of the two directions' 95th percentiles (MONAI)",
    "surface_dice": "fraction of both surfaces' voxels within surface_dice_tolerance_mm of the other surface",
    "interval": "95 % BCa bootstrap over subjects; pooled: each subject's phases averaged first",
    "mean": "structures of a subject averaged first",
}


def conventions(tolerance_mm: float) -> dict[str, str | float]:
    """What the numbers of a summary mean, with the tolerance of the surface Dice in mm."""
    return CONVENTIONS | {"surface_dice_tolerance_mm": tolerance_mm}


def summarise(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row per plane, structure and phase, for pooled phases, and for the mean over structures.

    Columns: `n_subjects`, `n_valid`, `n_missed`, `n_spurious`, and for each metric its mean, `_low`
      and `_high`.
    """
    return pd.concat(
        [_summarise(plane, rows, seed) for plane, rows in scores.groupby("plane", sort=False)], ignore_index=True
    )


def _summarise(plane: Any, scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    phases = [p for p in anatomy.PHASES if (scores["phase"] == p).any()]
    structures = [s for s in anatomy.STRUCTURES if (scores["structure"] == s).any()]
    rows = []
    for structure in (*structures, MEAN) if len(structures) > 1 else structures:
        for phase in (*phases, POOLED):
            chosen = scores if structure == MEAN else scores[scores["structure"] == structure]
            chosen = chosen if phase == POOLED else chosen[chosen["phase"] == phase]
            row: dict[str, Any] = {"plane": plane, "structure": structure, "phase": phase}
            row |= {
                "n_subjects": int(chosen["index"].nunique()),
                "n_valid": int(chosen["dice"].notna().sum()),
                "n_missed": int(chosen["missed"].sum()),
                "n_spurious": int(chosen["spurious"].sum()),
            }
            for metric in METRICS:
                values = list(statistics.per_subject(chosen[metric].to_numpy(), chosen["index"].tolist()).values())
                interval = statistics.bootstrap_mean(values, seed=seed)
                row |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            rows.append(row)
    return pd.DataFrame(rows)


def agree(measures: pd.DataFrame) -> pd.DataFrame:
    """Agreement per clinical measure, over the subjects with both values."""
    return pd.DataFrame(
        [
            {"plane": plane, "measure": name} | dataclasses.asdict(agreement.bland_altman(*pair(group)))
            for (plane, name), group in measures.groupby(["plane", "measure"], sort=False)
        ]
    )


def errors(measures: pd.DataFrame) -> pd.DataFrame:
    """The rows of clinical measures with the columns `error`, absolute, in the measure's unit, and
    `not_computed`: 1 where the prediction gives no EF although the reference does, else 0. NaN
    where the reference lacks the measure.

    An EF that the prediction does not give (no cavity at ED or ES) counts as the largest error of
    an EF between 0 and 100 %: a missing structure never scores well.
    """
    reference, predicted = (measures[name].astype(float) for name in ("reference", "predicted"))
    not_computed = measures["measure"].str.endswith("_ef_percent") & predicted.isna()
    largest = pd.concat([reference, 100 - reference], axis=1).max(axis=1, skipna=False)
    return measures.assign(
        error=(predicted - reference).abs().mask(not_computed, largest),
        not_computed=not_computed.astype(float).mask(reference.isna()),
    )


def pair(group: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction of one measure, float64 [N] each."""
    return group["reference"].to_numpy(float), group["predicted"].to_numpy(float)


def title(plane: Any, measure: Any, several: bool) -> str:
    """Title of a clinical measure, with the plane if there are several."""
    return clinical.TITLE[measure] + (f", {plane}" if several else "")


def table_text(summary: pd.DataFrame, agreed: pd.DataFrame) -> str:
    """Both tables as text."""

    def interval(row: Any, metric: str, digits: int) -> str:
        mean, low, high = (getattr(row, metric + end) for end in ("", "_low", "_high"))
        return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    heads = "".join(f"{head:24}" for head in ("Dice [95 % CI]", "HD95 mm", "ASSD mm"))
    several, section = summary["plane"].nunique() > 1, None
    lines = [f"{'structure':15}{'phase':8}{heads}{'valid':>6}{'missed':>8}{'spurious':>10}"]
    for row in summary.itertuples():
        if several and row.plane != section:
            section = row.plane
            lines.append(f"-- {section}")
        scores = (interval(row, "dice", 3), interval(row, "hd95_mm", 2), interval(row, "assd_mm", 2))
        cells = "".join(f"{cell:24}" for cell in scores)
        lines.append(f"{row.structure:15}{row.phase:8}{cells}{row.n_valid:6}{row.n_missed:8}{row.n_spurious:10}")
    lines += ["", f"{'measure':34}{'n':>4}{'bias':>9}{'limits of agreement':>24}{'MAE':>9}{'r':>8}"]
    for row in agreed[agreed["n"] > 0].itertuples():
        limits = f"{row.lower:.2f} to {row.upper:.2f}"
        name = title(row.plane, row.measure, several)
        lines.append(f"{name:34}{row.n:4}{row.bias:9.2f}{limits:>24}{row.mae:9.2f}{row.pearson_r:8.3f}")
    return "\n".join(lines)
