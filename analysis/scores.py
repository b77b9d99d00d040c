"""The scores of all runs of an experiment, for the analyses of segmentation.

A run is `<runs>/<arm>_<labelled set>_s<seed>`, scored by morphojax.evaluate on the test subjects.
The labelled set is `all`, or a number of labelled subjects and a letter (2a).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

# volume_error_ml: absolute error of a structure at one phase; NaN in a long-axis plane, which has
# areas and no volumes.
METRICS = ("dice", "hd95_mm", "volume_error_ml")
RESAMPLES = 5000


def read_scores(runs: Path, arms: str) -> pd.DataFrame:
    """A row per run, subject and structure, phases averaged.

    Columns: arm, labels (`2`, `8`, `all`), set, seed, subject (index), structure and METRICS.
    `arms` is a regular expression. Raises SystemExit where no run is scored.
    """
    frames = []
    for path in sorted(runs.glob("*_s*/evaluation/scores_test.csv")):
        match = re.fullmatch(rf"({arms})_(all|\d+)([a-z0-9]*)_s(\d+)", path.parent.parent.name)
        if not match:
            continue
        arm, labels, letter, seed = match.groups()
        scores = pd.read_csv(path)
        sizes = scores.reindex(columns=["predicted_ml", "reference_ml"])
        scores["volume_error_ml"] = (sizes["predicted_ml"] - sizes["reference_ml"]).abs()
        scores = scores.groupby(["index", "structure"], as_index=False)[list(METRICS)].mean()
        frames.append(scores.assign(arm=arm, labels=labels, set=labels + letter, seed=int(seed)))
    if not frames:
        raise SystemExit(f"error: no scored run under {runs}; run morphojax.evaluate on the runs first")
    return pd.concat(frames, ignore_index=True).rename(columns={"index": "subject"})


def matrix(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Runs (set, seed) x subjects: the metric, averaged over structures."""
    return scores.groupby(["set", "seed", "subject"])[metric].mean().unstack("subject")


def by_run(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per run: mean Dice per structure and over all, and mean volume error."""
    means = scores.groupby(["arm", "set", "seed", "structure"])[["dice", "volume_error_ml"]].mean()
    over_all = means.groupby(["arm", "set", "seed"]).mean()
    return means["dice"].unstack("structure").join(over_all).reset_index()


def crossed_interval(values: np.ndarray, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of values [runs, subjects].

    The pigeonhole bootstrap (Owen 2007) resamples runs and subjects: a result must hold for other
    labelled sets and seeds, and for other test subjects. With one run it covers the variation of
    subjects only. NaN marks a subject that a run lacks.
    """
    random = np.random.default_rng(seed)
    rows, columns = values.shape
    drawn_rows = random.integers(rows, size=(RESAMPLES, rows))
    drawn_columns = random.integers(columns, size=(RESAMPLES, columns))
    samples = (values[np.ix_(i, j)] for i, j in zip(drawn_rows, drawn_columns, strict=True))
    means = [np.nanmean(sample) for sample in samples if not np.isnan(sample).all()]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
