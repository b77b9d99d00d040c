"""A table and a figure of many arms under one budget, each beside training from scratch.

    python -m analysis.screening --runs=runs/screening --output=results

Reads `<runs>/<arm>_<labelled set>_s<seed>/evaluation/scores_test.csv`, as launch/acdc_screening.sh writes them. Writes screening.md,
screening.csv, runs.csv (the mean of every run: no subject appears) and screening.png.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.few_labels import by_run, crossed_interval, matrix, read_scores

BASELINE = "scratch"


def summarise(scores: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """A row per arm, best first: mean Dice, and the paired difference (same set, seed and subjects) to the baseline with its interval.

    Raises SystemExit where the baseline has not been run.
    """
    by_arm = {arm: matrix(found, "dice") for arm, found in scores.groupby("arm")}
    if baseline not in by_arm:
        raise SystemExit(f"error: no run of {baseline!r}, which the arms are compared with")
    rows = []
    for arm, found in by_arm.items():
        paired = found.index.intersection(by_arm[baseline].index)
        difference = (found.loc[paired] - by_arm[baseline].loc[paired]).to_numpy()
        row = {"arm": arm, "runs": len(found), "dice": found.to_numpy().mean(), "paired": len(paired)}
        if arm != baseline and len(paired):
            low, high = crossed_interval(difference)
            row |= {"difference": difference.mean(), "low": low, "high": high}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("dice", ascending=False, ignore_index=True)


def markdown(summary: pd.DataFrame, runs: pd.DataFrame, baseline: str = BASELINE) -> str:
    sets = sorted(runs["set"].unique())
    lines = [
        "| arm | runs | " + " | ".join(f"set {s}" for s in sets) + f" | mean Dice | minus {baseline} [95 % interval] |",
        "| --- | --- |" + " --- |" * (len(sets) + 2),
    ]
    means = runs.groupby(["arm", "set"])["dice"].mean()
    for row in summary.to_dict("records"):
        cells = [f"{means[row['arm'], s]:.3f}" if (row["arm"], s) in means else "" for s in sets]
        apart = (
            "" if pd.isna(row["difference"]) else f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        )
        lines.append(f"| {row['arm']} | {row['runs']} | {' | '.join(cells)} | {row['dice']:.3f} | {apart} |")
    return "\n".join(lines) + "\n"


def figure(path: Path, summary: pd.DataFrame, runs: pd.DataFrame, baseline: str = BASELINE) -> None:
    """Every run's mean Dice, arms best first, with the mean of the baseline as a line."""
    canvas = Figure(figsize=(7, 0.3 * len(summary) + 1.2), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    order = {arm: i for i, arm in enumerate(summary["arm"])}
    for name, found in runs.groupby("set"):
        axes.plot(found["dice"], found["arm"].map(order), "o", markersize=4, alpha=0.7, label=f"set {name}")
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
    parser.add_argument("--baseline", default=BASELINE, help="arm that the others are compared with (default: scratch)")
    options = parser.parse_args()
    scores = read_scores(options.runs, arms=r"\w+")
    summary, runs = summarise(scores, options.baseline), by_run(scores)
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(summary, runs, options.baseline)
    (options.output / "screening.md").write_text(text)
    summary.to_csv(options.output / "screening.csv", index=False, float_format="%.4f")
    runs.to_csv(options.output / "runs.csv", index=False, float_format="%.4f")
    figure(options.output / "screening.png", summary, runs, options.baseline)
    print(text)


if __name__ == "__main__":
    main()
