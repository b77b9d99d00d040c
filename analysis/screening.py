"""A table and a figure of many arms under one budget, each compared with training from scratch.

    python -m analysis.screening --runs=runs/screening --output=results

Reads `<runs>/<arm>_<labelled set>_s<seed>/evaluation/scores_test.csv`, which
launch/acdc_screening.sh writes. Writes:

    screening.md, screening.png
    screening.csv           Dice
    screening_volumes.csv   absolute error of a structure's volume at one phase, of short-axis runs
    runs.csv                the mean of every run, without values of single subjects
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.scores import by_run, crossed_interval, matrix, read_scores

BASELINE = "scratch"


def of_sets(scores: pd.DataFrame, sets: str) -> pd.DataFrame:
    """The scores of runs on these labelled sets, separated by commas; "": all sets.

    Raises SystemExit for a set without runs.
    """
    wanted = [word.strip() for word in sets.split(",") if word.strip()]
    if unknown := set(wanted) - set(scores["set"]):
        known = ", ".join(sorted(scores["set"].unique()))
        raise SystemExit(f"error: --sets={sets}: no scored run on {', '.join(sorted(unknown))}; choose among {known}")
    return scores[scores["set"].isin(wanted)] if wanted else scores


def summarise(scores: pd.DataFrame, metric: str = "dice", baseline: str = BASELINE) -> pd.DataFrame:
    """A row per arm, best first: mean of the metric, and paired difference to the baseline.

    Pairs have the same set, seed and subjects. High Dice is best; of any other metric, low. Runs
    without the metric are left out, and so are subjects that a run lacks. Raises SystemExit where
    the baseline has no run.
    """
    by_arm = {arm: matrix(of_arm, metric) for arm, of_arm in scores.dropna(subset=metric).groupby("arm")}
    if baseline not in by_arm:
        raise SystemExit(f"error: no run of {baseline!r}, which the arms are compared with")
    rows = []
    for arm, values in by_arm.items():
        paired = values.index.intersection(by_arm[baseline].index)
        difference = (values.loc[paired] - by_arm[baseline].loc[paired]).to_numpy()
        row = {"arm": arm, "runs": len(values), metric: np.nanmean(values), "paired": len(paired)}
        if arm != baseline and len(paired):
            low, high = crossed_interval(difference)
            row |= {"difference": np.nanmean(difference), "low": low, "high": high}
        rows.append(row)
    columns = ["arm", "runs", metric, "paired", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=pd.Index(columns)).sort_values(
        metric, ascending=metric != "dice", ignore_index=True
    )


def _difference(row: pd.Series, digits: int) -> str:
    """A paired difference and its interval; empty where there is none."""
    if pd.isna(row["difference"]):
        return ""
    return f"{row['difference']:+.{digits}f} [{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]"


def markdown(dice: pd.DataFrame, volumes: pd.DataFrame | None, runs: pd.DataFrame, baseline: str = BASELINE) -> str:
    """A table of the arms in the order of their Dice. volumes: None where no run has volumes."""
    sets = sorted(runs["set"].unique())
    difference = f"minus {baseline} [95 % interval]"
    heads = ["arm", "runs", *(f"set {s}" for s in sets), "mean Dice", difference]
    heads += [] if volumes is None else ["volume error, ml", difference]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    means = runs.groupby(["arm", "set"])["dice"].mean()
    errors = None if volumes is None else volumes.set_index("arm")
    for _, row in dice.iterrows():
        arm = row["arm"]
        cells = [arm, str(row["runs"]), *(f"{means[arm, s]:.3f}" if (arm, s) in means else "" for s in sets)]
        cells += [f"{row['dice']:.3f}", _difference(row, 3)]
        if errors is not None:
            measured = arm in errors.index
            cells += (
                [f"{errors.loc[arm, 'volume_error_ml']:.1f}", _difference(errors.loc[arm], 1)] if measured else ["", ""]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(path: Path, summary: pd.DataFrame, runs: pd.DataFrame, baseline: str = BASELINE) -> None:
    """The mean Dice of every run, arms best first; a line marks the mean of the baseline."""
    canvas = Figure(figsize=(7, 0.3 * len(summary) + 1.2), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    order = {arm: i for i, arm in enumerate(summary["arm"])}
    for name, of_set in runs.groupby("set"):
        axes.plot(of_set["dice"], of_set["arm"].map(order), "o", markersize=4, alpha=0.7, label=f"set {name}")
    axes.plot(summary["dice"], range(len(summary)), "D", color="black", markersize=6, zorder=3, label="mean")
    axes.axvline(summary.loc[summary["arm"] == baseline, "dice"].item(), color="0.6", linewidth=1)
    axes.set(yticks=range(len(summary)), yticklabels=summary["arm"], xlabel="mean Dice of the test subjects")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    canvas.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the scored runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the figure")
    parser.add_argument("--baseline", default=BASELINE, help="arm that all arms are compared with (default: scratch)")
    parser.add_argument("--sets", default="", help="labelled sets to compare on, as 2a,2d (default: all)")
    options = parser.parse_args()
    scores = of_sets(read_scores(options.runs, arms=r"\w+"), options.sets)
    summary, runs = summarise(scores, baseline=options.baseline), by_run(scores)
    measured = scores.loc[scores["arm"] == options.baseline, "volume_error_ml"].notna().any()
    volumes = summarise(scores, "volume_error_ml", options.baseline) if measured else None
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(summary, volumes, runs, options.baseline)
    (options.output / "screening.md").write_text(text)
    summary.to_csv(options.output / "screening.csv", index=False, float_format="%.4f")
    if volumes is not None:
        volumes.to_csv(options.output / "screening_volumes.csv", index=False, float_format="%.4f")
    runs.to_csv(options.output / "runs.csv", index=False, float_format="%.4f")
    figure(options.output / "screening.png", summary, runs, options.baseline)
    print(text)


if __name__ == "__main__":
    main()
