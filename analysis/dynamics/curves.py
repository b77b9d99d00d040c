"""What is drawn of the logs: curves of scalars, and the path of embeddings on the unit sphere."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import pandas as pd

X = ("images", "steps")  # what curves are drawn over


@dataclasses.dataclass(frozen=True)
class Curves:
    """A figure of curves.

    tasks: of which it is drawn.
    sources: pattern of a scalar's name -> label of the axis. The pattern's groups name the panel.
        The first source that was logged is drawn.
    by_run: the source is chosen for each run; else one for all runs, because values of different
        sources cannot be compared.
    logarithmic: the axis of the values.
    """

    tasks: tuple[str, ...]
    sources: Mapping[str, str]
    by_run: bool = False
    logarithmic: bool = False


_DICE = "Dice of the validation subjects (EMA weights where kept)"
FIGURES = {
    "distance": Curves(("segment",), {r"dynamics/distance/(.+)": "distance from the start, relative"}),
    "cka": Curves(("segment",), {r"dynamics/cka/(.+)": "linear CKA with the start"}),
    "grad_norm": Curves(
        ("segment", "pretrain", "probe"), {r"train/grad_norm/(.+)": "norm of the gradient"}, logarithmic=True
    ),
    "dice": Curves(("segment",), {r"val_ema/dice(?:/(.+))?": _DICE, r"val/dice(?:/(.+))?": _DICE}, by_run=True),
    "effective_rank": Curves(
        ("pretrain",),
        {
            r"val/([^/]+)/effective_rank_(.+)": "effective rank of the embeddings, validation",
            r"train/([^/]+)/effective_rank_(.+)": "effective rank of the embeddings, training batches",
        },
    ),
    "feature_rank": Curves(
        ("pretrain",), {r"dynamics/rank_(.+)_features": "effective rank of the features, training batch"}
    ),
}
# The plane of alignment and uniformity (Wang and Isola 2020), of images: SCARF's pairs are rows.
SPHERE = {
    r"val/((?!scarf/)[^/]+)/(alignment|uniformity_(?:image|first))": "validation",
    r"train/((?!scarf/)[^/]+)/(alignment|uniformity_(?:image|first))": "training batches",
}


def patterns(figures: Iterable[str]) -> list[str]:
    """Of the scalars that these figures, and the plane `sphere`, are drawn from."""
    return [*SPHERE, *(source for figure in figures for source in FIGURES[figure].sources)]


def select(log: pd.DataFrame, figure: str) -> tuple[pd.DataFrame, str]:
    """The rows of a figure, with the panel's part of the scalar as `name`, and the axis' label.

    No row: nothing was logged. Where a module has norms by depth, the norm of the whole module is
    left out.
    """
    curves = FIGURES[figure]
    log = log[log["task"].isin(curves.tasks)]
    groups = [rows for _, rows in log.groupby("run", sort=False)] if curves.by_run else [log]
    found = [_first(rows, curves.sources) for rows in groups]
    rows = pd.concat([rows for rows, _ in found]) if found else log
    label = next((label for _, label in found if label), "")
    with_depths = {name.split("/")[0] for name in rows["name"] if "/" in name}
    return rows[~rows["name"].isin(with_depths)], label


def over_runs(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Mean, smallest and largest value over the runs of a line: columns panel, line, name, x, mean,
    low, high, runs.

    Only points that all of these runs have logged: a run that ended earlier would move the mean.
    x: one of X.
    """
    keys, known = ["panel", "line", "name"], rows.dropna(subset="value")
    known = known.assign(x=known["step" if x == "steps" else "images"])
    runs = known.groupby(keys, sort=False)["run"].nunique().rename("runs").reset_index()
    points = known.groupby([*keys, "x"], sort=False)["value"].agg(mean="mean", low="min", high="max", n="size")
    merged = points.reset_index().merge(runs, on=keys)
    return merged[merged["n"] == merged["runs"]].drop(columns="n").sort_values("x", kind="stable")


def sphere(log: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Alignment and uniformity of pretrainings, mean over the runs of a line, and where they were
    measured: columns panel, line, name (objective), step, alignment, uniformity.

    Only steps that all of these runs have logged.
    """
    rows, label = _first(log[log["task"] == "pretrain"], SPHERE)
    parts = rows["name"].str.extract(r"(?P<name>.+), (?P<measure>alignment|uniformity)")
    points = rows.drop(columns="name").join(parts).dropna(subset="value")
    means = []
    keys = ["panel", "line", "name"]
    for _, of_line in points.groupby(keys, sort=False):
        both = of_line.pivot_table(index=[*keys, "step", "run"], columns="measure", values="value")
        both = both.reindex(columns=["alignment", "uniformity"]).dropna()
        by_step = both.groupby([*keys, "step"])[["alignment", "uniformity"]].agg(["mean", "size"])
        complete = by_step[("alignment", "size")] == of_line["run"].nunique()
        means.append(by_step.xs("mean", axis=1, level=1)[complete].reset_index())
    empty = pd.DataFrame(columns=pd.Index([*keys, "step", "alignment", "uniformity"]))
    return (pd.concat(means, ignore_index=True) if means else empty), label


def _first(rows: pd.DataFrame, sources: Mapping[str, str]) -> tuple[pd.DataFrame, str]:
    """The rows of the first source that occurs, named by its groups, and its label."""
    for pattern, label in sources.items():
        compiled = re.compile(pattern)
        named = {name: match for name in rows["name"].unique() if (match := compiled.fullmatch(name))}
        if named:
            names = {name: ", ".join(match.groups(default="mean")) for name, match in named.items()}
            chosen = rows[rows["name"].isin(names)]
            return chosen.assign(name=chosen["name"].map(names)), label
    return rows.iloc[:0], ""


def image_to_mask(name: str) -> tuple[int, int, str]:
    """Sort key of the panels: down the encoder, then up the decoder (level 0 is the finest); the
    mean before its parts.
    """
    number = int(match.group()) if (match := re.search(r"\d+", name)) else None
    module = name.split("/")[0]
    if module == "encoder":
        return (0, 0 if name.endswith("stem") else 1000 if number is None else number, name)
    if module == "decoder":
        return (1, 0 if number is None else -number, name)
    return (2, -1 if name == "mean" else 1000 if number is None else number, name)
