"""Scores of the runs of an experiment, gathered: what the studies of segmentation share.

A run is `<runs>/<arm>_<labelled set>_s<seed>`, scored by morphojax.evaluate on the test subjects. The labelled set is `all`, or a number of
labelled subjects and a name (2a).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

# volume_error_ml is absolute, of a structure at one phase; NaN in a long-axis plane, which has areas.
METRICS = ("dice", "hd95_mm", "volume_error_ml")
RESAMPLES = 5000


def read_scores(runs: Path, arms: str) -> pd.DataFrame:
    """A row per run, subject and structure: arm, labels (`2`, `8`, `all`), set, seed, subject (index), structure and METRICS.

    Both phases of a subject are averaged. `arms` is a regular expression. Raises SystemExit where no run is scored.
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
    """Mean Dice of every run, per structure and over all, and its error of volumes: nothing of a single subject."""
    means = scores.groupby(["arm", "set", "seed", "structure"])[["dice", "volume_error_ml"]].mean()
    over_all = means.groupby(["arm", "set", "seed"]).mean()
    return means["dice"].unstack("structure").join(over_all).reset_index()


def crossed_interval(values: np.ndarray, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of [runs, subjects], resampling both: a result must hold for other labelled sets and seeds,
    and for other test subjects (the pigeonhole bootstrap, Owen 2007). With one run only subjects vary, and the interval says less. NaN: a
    subject that a run has not."""
    random = np.random.default_rng(seed)
    rows, columns = values.shape
    r = random.integers(rows, size=(RESAMPLES, rows))
    c = random.integers(columns, size=(RESAMPLES, columns))
    drawn = (values[np.ix_(i, j)] for i, j in zip(r, c, strict=True))
    means = [np.nanmean(v) for v in drawn if not np.isnan(v).all()]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
