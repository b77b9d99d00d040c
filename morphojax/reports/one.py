"""The sections of the report of one evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.evaluation import agreement, positions, statistics, summary
from morphojax.reports import card, cases, figures
from morphojax.reports.document import Block, Section
from morphojax.reports.evaluated import Evaluated, Trained
from morphojax.train.logger import scalars

# Metric -> heading and digits.
METRICS = {
    "dice": ("Dice", 3),
    "surface_dice": ("surface Dice", 3),
    "hd95_mm": ("HD95, mm", 1),
    "assd_mm": ("ASSD, mm", 2),
}
_MOST_FAILURES = 20  # that are listed one by one


def title(evaluated: Evaluated) -> str:
    return f"{', '.join(run.folder.name for run in evaluated.runs)}: {evaluated.split} split"


def sections(evaluated: Evaluated) -> list[Section]:
    return [
        card.section(evaluated),
        Section("Training", list(_training(evaluated))),
        scores(evaluated),
        *_positions(evaluated),
        *_clinical(evaluated),
        cases.section(evaluated),
        _failures(evaluated),
        card.commands(evaluated),
    ]


def interval(mean: float, low: float, high: float, digits: int, sign: str = "") -> str:
    """`0.912 [0.901, 0.923]`; the mean alone without an interval, and - without a mean."""
    if not np.isfinite(mean):
        return "-"
    form = f"{sign}.{digits}f"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]" if np.isfinite(low) else f"{mean:{form}}"


def metric_text(row: Mapping[Any, Any], metric: str) -> str:
    """The `interval` of a metric in a row of a summary."""
    return interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], METRICS[metric][1])


def structure(name: str) -> str:
    return anatomy.LABEL_NAME.get(name, "mean of structures")


def curve(run: Trained, names: Sequence[str]) -> list[tuple[int, float]]:
    """Step and value of the first of the names that the run logged."""
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for step, values in scalars(run.folder):
        for name in found.keys() & values.keys():
            found[name][step] = values[name]  # a run that an earlier version resumed has a step twice
    return next((sorted(points.items()) for points in found.values() if points), [])


def _training(evaluated: Evaluated) -> Iterator[Block]:
    for run in evaluated.runs:
        where = f" of {run.folder}" if len(evaluated.runs) > 1 else ""
        loss = {"loss of a step": curve(run, ["train/loss"])}
        dice = {name: curve(run, [key]) for name, key in (("model", "val/dice"), ("EMA weights", "val_ema/dice"))}
        drawn = curves({"loss": loss, "validation Dice": dice})
        if drawn:
            yield Block("panels", f"Training{where}: {' and '.join(drawn)} over steps", panels=list(drawn.values()))
        else:
            yield Block("text", f"No curves{where}: there is no metrics.jsonl with a loss.")
        if not any(dice.values()):
            why = "config.eval_every=0" if not run.config["eval_every"] else "the log has no val/dice"
            yield Block("text", f"No Dice of validation subjects{where}: {why}.")


def curves(panels: Mapping[str, Mapping[str, list[tuple[int, float]]]]) -> dict[str, str]:
    """A figure for each panel with a point. panels: label -> line -> points."""
    return {
        label: figures.curves(lines, label, label == "loss" and all(y > 0 for p in lines.values() for _, y in p))
        for label, lines in panels.items()
        if any(lines.values())
    }


def scores(evaluated: Evaluated) -> Section:
    metrics = [name for name in METRICS if name in evaluated.summary]
    head = ["structure", "phase", *(f"{METRICS[m][0]} [95 %]" for m in metrics), "subjects", "masks"]
    blocks = [
        Block(
            "text",
            "Means over subjects, with 95 % BCa bootstrap intervals. Pooled: phases of a subject averaged first. "
            "Masks: structures in stacks that were scored.",
        )
    ]
    for plane in evaluated.planes:
        rows = []
        for row in evaluated.summary[evaluated.summary["plane"] == plane].to_dict("records"):
            cells = [metric_text(row, metric) for metric in metrics]
            counts = [str(row[name]) for name in ("n_subjects", "n_valid")]
            rows.append([structure(row["structure"]), row["phase"], *cells, *counts])
        if len(evaluated.planes) > 1:
            blocks.append(Block("text", f"Plane {plane}:"))
        blocks.append(Block("table", head=head, rows=rows))
    return Section("Scores by structure and phase", blocks)


def _positions(evaluated: Evaluated) -> Iterator[Section]:
    """Nothing for a long axis."""
    if positions.PLANE not in evaluated.planes:
        return
    table = evaluated.positions
    if table.empty:
        text = f"No positions: no positions_{evaluated.split}.csv with rows. Run evaluate again to get them."
        yield Section("Dice by slice position", [Block("text", text)])
        return
    rows = []
    for name in (*(s for s in anatomy.STRUCTURES if (table["structure"] == s).any()), summary.MEAN):
        cells = []
        for position in positions.POSITIONS:
            chosen = table[(table["position"] == position) & ((table["structure"] == name) | (name == summary.MEAN))]
            values = statistics.per_subject(chosen["dice"].to_numpy(float), chosen["index"].tolist())
            found = statistics.bootstrap_mean(list(values.values()))
            cells.append(interval(found.mean, found.low, found.high, 3))
        rows.append([structure(name), *cells])
    text = (
        "Thirds of the slices in which the reference has the left ventricle. Phases of a subject averaged first; 95 % BCa bootstrap "
        "intervals over subjects. Slices without the left ventricle belong to no third, whatever the prediction has there."
    )
    table_block = Block("table", head=["Dice [95 %]", *positions.POSITIONS], rows=rows)
    yield Section("Dice by slice position", [table_block, Block("text", text)])


def pairs(evaluated: Evaluated) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Title with unit -> reference and prediction of a measure, where a subject has both."""
    several = evaluated.measures["plane"].nunique() > 1
    groups = evaluated.measures.groupby(["plane", "measure"], sort=False)
    found = {summary.title(plane, name, several): summary.pair(group) for (plane, name), group in groups}
    return {name: pair for name, pair in found.items() if len(agreement.pairs(*pair)[0])}


def _clinical(evaluated: Evaluated) -> Iterator[Section]:
    """Nothing where no measure was scored."""
    found = pairs(evaluated)
    if not found:
        return
    head = ["measure", "n", "bias [95 %]", "lower limit [95 %]", "upper limit [95 %]"]
    rows = []
    for name, pair in found.items():
        result = agreement.bland_altman(*pair)
        bounds = agreement.intervals(result)
        levels = ((result.bias, bounds.bias), (result.lower, bounds.lower), (result.upper, bounds.upper))
        cells = [interval(level, *bound, 1, "+") for level, bound in levels]
        r = "-" if np.isnan(result.pearson_r) else f"{result.pearson_r:.3f}"
        rows.append([name, f"{result.n}", *cells, f"{result.mae:.1f}", r])
    text = (
        "Predicted minus reference (Bland and Altman). Limits of agreement: bias - 1.96 SD and bias + 1.96 SD. The bands are 95 % t "
        "intervals of the bias and of each limit (Bland and Altman 1999)."
    )
    panels = [figures.agreement(name, *pair) for name, pair in found.items()]
    blocks = [
        Block("table", head=[*head, "mean absolute error", "r"], rows=rows),
        Block("panels", "Difference against mean; line: bias, dashes: limits of agreement", panels=panels),
        Block("text", text),
        Block("list", lines=[*_not_computed(evaluated.measures)]),
    ]
    yield Section("Clinical measures", [block for block in blocks if block.kind != "list" or block.lines])


def _not_computed(measures: pd.DataFrame) -> Iterator[str]:
    for (plane, name), group in summary.errors(measures).groupby(["plane", "measure"], sort=False):
        lacking = group["not_computed"].sum()
        if lacking:
            what = summary.title(plane, name, True)
            yield f"{what}: {lacking:.0f} predictions give none, a phase lacks the cavity; they are in no number above."
        without = int(group["reference"].isna().sum())
        if 0 < without < len(group):
            yield f"{summary.title(plane, name, True)}: {without} subjects have no reference."


def _failures(evaluated: Evaluated) -> Section:
    """Missed: in the reference alone. Spurious: in the prediction alone."""
    counted = evaluated.summary
    counted = counted[(counted["structure"] != summary.MEAN) & (counted["phase"] != summary.POOLED)]
    rows = [
        [
            f"{structure(r['structure'])}, {r['plane']} {r['phase']}",
            f"{r['n_missed']}",
            f"{r['n_spurious']}",
            f"{r['n_valid']}",
        ]
        for r in counted.to_dict("records")
    ]
    head = ["structure", "missed", "spurious", "scored"]
    text = "Missed: the prediction has none of a structure that the reference has. Spurious: the other way round."
    scores = evaluated.scores
    lines = [
        f"subject {r['index']}, {r['plane']} {r['phase']}: {structure(r['structure'])} {'missed' if r['missed'] else 'spurious'}"
        for r in scores[scores["missed"].astype(bool) | scores["spurious"].astype(bool)].to_dict("records")
    ]
    more = len(lines) - _MOST_FAILURES
    lines = lines[:_MOST_FAILURES] + ([f"and {more} more, in scores_{evaluated.split}.csv"] if more > 0 else [])
    listed = Block("list", lines=lines) if lines else Block("text", "No structure was missed, and none is spurious.")
    return Section("Failures", [Block("text", text), Block("table", head=head, rows=rows), listed])
