"""Tables and a figure of a few-label experiment: training from scratch against pretraining.

    python -m analysis.few_labels --runs=runs/acdc --output=results

Reads `<runs>/<arm>_<labelled set>_s<seed>/evaluation/scores_test.csv`, which
launch/acdc_few_labels.sh writes. The labelled set is `all`, or a number of labelled subjects and a
letter (2a). Writes few_labels.md, few_labels.csv, few_labels.png, and runs.csv: the mean of every
run, without values of single subjects.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.scores import by_run, crossed_interval, matrix, read_scores
from morphojax import anatomy

ARMS = ("scratch", "pretrained")


def summarise(scores: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """A row per number of labels and arm, and one for the paired difference (same set, seed,
    subjects).
    """
    rows = []
    for labels in sorted(scores["labels"].unique(), key=lambda n: (n == "all", n)):
        by_arm = {arm: matrix(scores[(scores["labels"] == labels) & (scores["arm"] == arm)], metric) for arm in ARMS}
        paired = by_arm["pretrained"].index.intersection(by_arm["scratch"].index)
        by_arm["difference"] = by_arm["pretrained"].loc[paired] - by_arm["scratch"].loc[paired]
        for name, values in by_arm.items():
            if values.empty:
                continue
            low, high = crossed_interval(values.to_numpy())
            run_means = values.mean(axis=1)
            rows.append(
                {
                    "labels": labels, "arm": name, "runs": len(values), "sets": values.index.get_level_values("set").nunique(),
                    "seeds": values.index.get_level_values("seed").nunique(), "subjects": values.shape[1], metric: run_means.mean(),
                    "low": low, "high": high, "sd_over_runs": run_means.std(ddof=1) if len(values) > 1 else np.nan,
                    "runs_above_0": int((run_means > 0).sum()) if name == "difference" else np.nan,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame, scores: pd.DataFrame, metric: str = "dice") -> str:
    """Tables: the summary, the mean of every structure, and of every labelled set over seeds."""
    lines = [
        "| labelled subjects | arm | runs (sets x seeds) | mean Dice [95 % interval] | SD over runs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in summary.to_dict("records"):
        sign = "+" if row["arm"] == "difference" else ""
        name = "pretrained - scratch" if sign else row["arm"]
        spread = "" if np.isnan(row["sd_over_runs"]) else f"{row['sd_over_runs']:.3f}"
        above = f"; above 0 in {row['runs_above_0']:.0f} of {row['runs']}" if sign else ""
        lines.append(
            f"| {row['labels']} | {name} | {row['runs']} ({row['sets']} x {row['seeds']}) | "
            f"{row[metric]:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]{above} | {spread} |"
        )
    structures = [s for s in anatomy.STRUCTURES if s in set(scores["structure"])]
    lines += [
        "",
        "| labelled subjects | arm | " + " | ".join(f"{anatomy.LABEL_NAME[s]} Dice, HD95" for s in structures) + " |",
    ]
    lines.append("| --- | --- |" + " --- |" * len(structures))
    means: dict = scores.groupby(["labels", "arm", "structure"])[["dice", "hd95_mm"]].mean().to_dict("index")
    for labels in summary["labels"].unique():
        for arm in ARMS:
            if (labels, arm, structures[0]) in means:
                cells = (means[labels, arm, s] for s in structures)
                lines.append(
                    f"| {labels} | {arm} | "
                    + " | ".join(f"{c['dice']:.3f}, {c['hd95_mm']:.1f} mm" for c in cells)
                    + " |"
                )
    runs = by_run(scores).set_index(["set", "seed", "arm"])["dice"].unstack("arm").reindex(columns=list(ARMS))
    lines += ["", "| labelled set | seeds | " + " | ".join(ARMS) + " | difference |", "| --- |" + " --- |" * 4]
    for name, of_set in runs.dropna().groupby("set"):
        difference = (of_set["pretrained"] - of_set["scratch"]).mean()
        means_of_set = " | ".join(f"{of_set[arm].mean():.3f}" for arm in ARMS)
        lines.append(f"| {name} | {len(of_set)} | {means_of_set} | {difference:+.3f} |")
    return "\n".join(lines) + "\n"


def figure(path: Path, scores: pd.DataFrame) -> None:
    """Mean Dice of every run by number of labels; a line joins both arms of one set and seed."""
    sizes = sorted(scores["labels"].unique(), key=lambda n: (n == "all", n))
    canvas = Figure(figsize=(2.2 * len(sizes) + 1, 4), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = np.atleast_1d(canvas.subplots(1, len(sizes), sharey=True))
    for axis, labels in zip(axes, sizes, strict=True):
        runs = scores[scores["labels"] == labels].groupby(["set", "seed", "arm"])["dice"].mean().unstack("arm")
        runs = runs.reindex(columns=list(ARMS))
        for name, row in runs.iterrows():
            axis.plot([0, 1], row.to_numpy(), "o-", color="0.6", markersize=4, linewidth=0.8, label=str(name))
        axis.plot([0, 1], runs.mean().to_numpy(), "D", color="#d55e00", markersize=8, zorder=3)
        axis.set(title="all labelled" if labels == "all" else f"{labels} labelled", xticks=[0, 1], xlim=(-0.4, 1.4))
        axis.set_xticklabels(ARMS)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("mean Dice of a run's test subjects")
    canvas.suptitle("each line: one labelled set and seed; diamonds: mean of runs", fontsize=9)
    canvas.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the scored runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the figure")
    options = parser.parse_args()
    scores = read_scores(options.runs, arms="|".join(ARMS))
    summary = summarise(scores)
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(summary, scores)
    (options.output / "few_labels.md").write_text(text)
    summary.to_csv(options.output / "few_labels.csv", index=False, float_format="%.4f")
    by_run(scores).to_csv(options.output / "runs.csv", index=False, float_format="%.4f")
    figure(options.output / "few_labels.png", scores)
    print(text)


if __name__ == "__main__":
    main()
