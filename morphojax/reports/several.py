"""The sections of a report that puts evaluated runs side by side."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.evaluation import contrasts, statistics, summary
from morphojax.reports import card
from morphojax.reports.document import Block, Section
from morphojax.reports.evaluated import Evaluated, ReportError
from morphojax.reports.one import METRICS, curve, curves, interval, metric_text, structure

Named = Mapping[str, Evaluated]
_COMPARED = ("dice", "hd95_mm")  # that have a table of paired differences
_DIFFERENCES = (
    "Paired by test subject, its phases averaged first. Each arm is one run: the interval (BCa bootstrap) covers variation over test "
    "subjects only, not over seeds or labelled sets, so it says nothing about other runs of the same config. p: Wilcoxon's "
    "signed-rank test, not corrected for the number of rows. P(higher): fraction of subjects with a higher value. Detectable: the "
    "smallest difference that a t test over these subjects finds with 80 % power."
)


def check(runs: Named) -> None:
    """Raises ReportError where the runs were not scored on the same subjects and planes."""
    first, *others = runs.values()
    for other in others:
        datasets = [each.about["dataset_fingerprint"] for each in (first, other)]
        if datasets[0] != datasets[1]:
            raise ReportError(
                f"{other.folder}: scored on dataset {datasets[1]}, {first.folder} on {datasets[0]}; "
                "compare runs that were evaluated on one dataset"
            )
        if first.planes != other.planes:
            raise ReportError(
                f"{other.folder}: scored in {', '.join(other.planes)}, {first.folder} in {', '.join(first.planes)}; "
                "compare runs of the same planes"
            )


def title(runs: Named) -> str:
    first = next(iter(runs.values()))
    return f"{len(runs)} runs side by side: {first.split} split"


def sections(runs: Named) -> list[Section]:
    return [
        _runs(runs),
        _scores(runs),
        *_differences(runs),
        *_clinical(runs),
        _training(runs),
        _failures(runs),
        _commands(runs),
    ]


def _runs(runs: Named) -> Section:
    head = ["run", "encoder", "labelled slices a step", "steps", "seed", "checkpoint", "weights", "subjects"]
    rows, lines = [], []
    for name, each in runs.items():
        config, about = each.runs[0].config, each.about
        cells = [config["model"]["encoder"], *(str(config[key]) for key in ("batch_size", "steps", "seed"))]
        rows.append([name, *cells, about["checkpoint"], about["weights"], str(each.scores["index"].nunique())])
        labelled = card.who(*(config["data"][key] for key in ("splits", "subjects", "fraction")))
        given = f"First weights: {card.start(config)}. Labelled: {labelled}. Unlabelled: {card.unlabelled(config)}."
        lines.append(f"{name}: {each.runs[0].folder}. {given} {card.scoring(each)}")
    return Section("Runs", [Block("table", head=head, rows=rows), Block("list", lines=lines)])


def _planes(runs: Named) -> list[str]:
    return next(iter(runs.values())).planes


def _structures(runs: Named, plane: str) -> list[str]:
    """The structures that a run was scored by, and their mean where there are several."""
    found = {s for each in runs.values() for s in each.scores.loc[each.scores["plane"] == plane, "structure"]}
    listed = [s for s in anatomy.STRUCTURES if s in found]
    return [*listed, summary.MEAN] if len(listed) > 1 else listed


def _scores(runs: Named) -> Section:
    tolerances = {each.about["conventions"].get("surface_dice_tolerance_mm") for each in runs.values()}
    metrics = [m for m in METRICS if all(m in each.summary for each in runs.values())]
    blocks = [Block("text", "Means over subjects, phases averaged first, with 95 % BCa bootstrap intervals.")]
    if len(tolerances) > 1:
        metrics = [m for m in metrics if m != "surface_dice"]
        blocks.append(
            Block("text", "Surface Dice is left out: the runs were scored with different tolerances, or without one.")
        )
    found = {run: _pooled(each.summary) for run, each in runs.items()}
    for metric in metrics:
        rows = []
        for key in _keys(runs):
            cells = [metric_text(found[run][key], metric) if key in found[run] else "-" for run in runs]
            rows.append([_name(runs, key), *cells])
        blocks.append(Block("table", head=[METRICS[metric][0], *runs], rows=rows))
    return Section("Scores by structure", blocks)


def _pooled(table: pd.DataFrame) -> dict[tuple[str, str], dict[Any, Any]]:
    """Plane and structure -> the row of pooled phases of a summary."""
    rows = table[table["phase"] == summary.POOLED].to_dict("records")
    return {(row["plane"], row["structure"]): row for row in rows}


def _keys(runs: Named) -> list[tuple[str, str]]:
    """Plane and structure of the rows of a table."""
    return [(plane, name) for plane in _planes(runs) for name in _structures(runs, plane)]


def _name(runs: Named, key: tuple[str, str]) -> str:
    return structure(key[1]) + (f", {key[0]}" if len(_planes(runs)) > 1 else "")


def _differences(runs: Named) -> Iterator[Section]:
    first, *others = runs
    blocks = [Block("text", _DIFFERENCES)]
    for metric in _COMPARED:
        label, digits = METRICS[metric]
        rows = []
        for key in _keys(runs):
            for other in others:
                a, b = (runs[run].by_subject(*key, metric) for run in (other, first))
                rows.append([f"{_name(runs, key)}: {other}", *_cells(a, b, digits)])
        blocks.append(Block("table", head=_head(label), rows=rows))
    yield Section(f"Paired differences to {first}", blocks)


def _head(first: str) -> list[str]:
    return [first, "difference [95 %]", "subjects", "p", "P(higher)", "detectable"]


def _cells(a: pd.Series, b: pd.Series, digits: int) -> list[str]:
    """The difference a - b over the subjects of both. a, b: subject -> value."""
    both = pd.concat([a, b], axis=1, join="inner").to_numpy(float).T
    found = contrasts.contrast(both[:1], both[1:], [0])
    numbers = ((found.p_value, ".2g"), (found.improvement, ".2f"), (found.detectable, f".{digits}f"))
    texts = ["-" if np.isnan(value) else f"{value:{form}}" for value, form in numbers]
    return [interval(found.mean, found.bca_low, found.bca_high, digits, "+"), str(found.n_subjects), *texts]


def _clinical(runs: Named) -> Iterator[Section]:
    """Nothing where no measure was scored."""
    errors = {name: _errors(each.measures) for name, each in runs.items()}
    first, *others = runs
    found = list(dict.fromkeys(key for table in errors.values() for key in table))
    if not found:
        return
    none, several = pd.Series(dtype=float), len({plane for plane, _ in found}) > 1
    rows, compared = [], []
    for key in found:
        name, values = summary.title(*key, several), {run: errors[run].get(key, none) for run in runs}
        means = [statistics.bootstrap_mean(values[run].to_numpy(float)) for run in runs]
        rows.append([name, *(interval(m.mean, m.low, m.high, 1) for m in means)])
        compared += [[f"{name}: {other}", *_cells(values[other], values[first], 1)] for other in others]
    text = (
        "Mean absolute error, with 95 % BCa bootstrap intervals over subjects. An EF that a prediction does not give (no cavity at ED "
        "or ES) counts as the largest error of an EF between 0 and 100 %."
    )
    blocks = [Block("text", text), Block("table", head=["mean absolute error", *runs], rows=rows)]
    note = Block(
        "text", f"Paired differences to {first}, as above; below 0, the error is smaller than that of {first}."
    )
    yield Section("Clinical errors", [*blocks, note, Block("table", head=_head("error"), rows=compared)])


def _errors(measures: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Plane and measure -> subject -> absolute error; NaN is left out."""
    groups = summary.errors(measures).groupby(["plane", "measure"], sort=False)
    found = {(str(p), str(m)): group.set_index("index")["error"].dropna() for (p, m), group in groups}
    return {key: values for key, values in found.items() if len(values)}


def _training(runs: Named) -> Section:
    def lines(*keys: str) -> dict[str, list[tuple[int, float]]]:
        return {name: curve(each.runs[0], keys) for name, each in runs.items()}

    dice = lines("val_ema/dice", "val/dice")
    drawn = curves({"loss": lines("train/loss"), "validation Dice": dice})
    text = (
        "Loss: the sum of a run's own objectives, so it compares runs of the same objectives only. Validation Dice: of the EMA weights "
        "where a run keeps them."
    )
    caption = f"Training of all runs: {' and '.join(drawn)} over steps"
    blocks = [Block("panels", caption, panels=list(drawn.values())), Block("text", text)]
    if absent := [name for name, points in dice.items() if not points]:
        blocks.append(Block("text", f"No Dice of validation subjects was logged by: {', '.join(absent)}."))
    return Section("Training", blocks if drawn else [Block("text", "No run has a metrics.jsonl with a loss.")])


def _failures(runs: Named) -> Section:
    rows = []
    for name, each in runs.items():
        lacking = summary.errors(each.measures)["not_computed"].sum() if len(each.measures) else 0
        counts = [int(each.scores[column].sum()) for column in ("missed", "spurious")]
        rows.append([name, *map(str, counts), str(int(each.scores["dice"].notna().sum())), f"{lacking:.0f}"])
    head = ["run", "missed structures", "spurious structures", "of scored structures", "EFs not computed"]
    return Section("Failures", [Block("table", head=head, rows=rows)])


def _commands(runs: Named) -> Section:
    blocks = [block for name, each in runs.items() for block in (Block("text", name), *card.commands(each).blocks)]
    return Section("Commands and versions", blocks)
