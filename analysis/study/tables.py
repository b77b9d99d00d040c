"""What a study found: means of the arms, contrasts, label efficiency, stability of the ranking."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.study.errors import StudyError
from analysis.study.scores import METRICS, matrix
from analysis.study.spec import ARM, LABELLED, SEED, Study
from morphojax.evaluation import contrasts

PRIMARY = "dice"
ALL = "all"  # labelled sets pooled
_NUMBERS = [field.name for field in dataclasses.fields(contrasts.Contrast)]
_COMPARED = ["a", "b", "labels", "unpaired", "seeds", *_NUMBERS, "p_holm"]


@dataclasses.dataclass(frozen=True)
class Part:
    """The scores that are compared with each other: one value of every axis but the arm, the
    labelled set and the seed.

    name: those values; "" where the study has no other axis.
    """

    name: str
    scores: pd.DataFrame


def parts(study: Study, scores: pd.DataFrame) -> Iterator[Part]:
    for values in itertools.product(*(study.axes[axis] for axis in study.strata)):
        chosen = scores
        for axis, value in zip(study.strata, values, strict=True):
            chosen = chosen[chosen[axis] == value]
        if len(chosen):
            yield Part(", ".join(values), chosen)


def means(study: Study, part: Part, metrics: Sequence[str] = tuple(METRICS)) -> pd.DataFrame:
    """A row per arm and number of labels, and ALL where there are several numbers: runs, sets,
    seeds, subjects, and the mean of every metric, of the first with its interval. ALL are the
    labelled sets that every arm has.

    The baseline comes first, then the arms from the lowest mean Dice to the highest.
    """
    shared = _of_shared_sets(part.scores)
    overall = shared[shared["metric"] == PRIMARY].groupby(ARM)["value"].mean()
    arms = sorted(part.scores[ARM].unique(), key=lambda arm: (arm != study.baseline, overall.get(arm, 0.0)))
    rows, scores = [], part.scores[part.scores["metric"].isin(metrics)]
    by_arm = ((arm, *found) for arm in arms for found in _by_labels(scores[scores[ARM] == arm], shared))
    for name, labels, chosen in by_arm:
        row: dict = {"arm": name, "labels": labels}
        for metric in metrics:
            values = matrix(chosen, metric)
            row[metric] = np.nanmean(values) if values.size else np.nan
            if metric == metrics[0]:
                low, high = contrasts.hierarchical_interval(
                    values.to_numpy(), list(values.index.get_level_values(LABELLED))
                )
                row |= _counts(values) | {"low": low, "high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def compare(part: Part, pairs: Sequence[tuple[str, str]], metric: str, adjust: bool = True) -> pd.DataFrame:
    """A row per pair of arms and number of labels: the paired difference, on what both arms have.

    unpaired: runs that one arm has and the other lacks; they are left out, never imputed. adjust:
    Holm's correction, over the pairs, each on all of its labelled sets. Raises StudyError where two
    arms were scored on different datasets.
    """
    rows, scores = [], part.scores[part.scores["metric"] == metric]
    for a, b in pairs:
        for labels, chosen in _by_labels(scores[scores[ARM].isin((a, b))]):
            rows.append({"a": a, "b": b, "labels": labels} | _difference(chosen, a, b, metric))
    table = pd.DataFrame(rows, columns=pd.Index(_COMPARED))
    if adjust and len(table):
        widest = ~table.duplicated(["a", "b"])  # the first row of a pair
        table.loc[widest, "p_holm"] = contrasts.holm(table.loc[widest, "p_value"].to_numpy(float))
    return table


def by_structure(part: Part, pairs: Sequence[tuple[str, str]], metric: str = PRIMARY) -> pd.DataFrame:
    """A row per pair, structure and phase, on all labelled sets: the paired difference."""
    rows = []
    for a, b in pairs:
        chosen = part.scores[part.scores[ARM].isin((a, b)) & (part.scores["metric"] == metric)]
        for (structure, phase), scores in chosen.groupby(["structure", "phase"], sort=False):
            difference = _difference(scores, a, b, metric)
            if "mean" in difference:
                rows.append({"a": a, "b": b, "structure": structure, "phase": phase} | difference)
    return pd.DataFrame(rows, columns=pd.Index(["a", "b", "structure", "phase", "mean", "low", "high", "n_runs"]))


def _difference(scores: pd.DataFrame, a: str, b: str, metric: str) -> dict:
    of_a, of_b = (matrix(scores[scores[ARM] == arm], metric) for arm in (a, b))
    runs, subjects = of_a.index.intersection(of_b.index), of_a.columns.intersection(of_b.columns)
    row: dict = {"unpaired": len(of_a.index.symmetric_difference(of_b.index))}
    if not len(runs):
        return row
    if len(datasets := scores["dataset"].unique()) > 1:
        raise StudyError(
            f"{a} and {b} were scored on different datasets ({', '.join(datasets)}): a contrast needs the same "
            "test subjects; give the datasets an axis of their own, or run the cells again"
        )
    first, second = (values.loc[runs, subjects].to_numpy() for values in (of_a, of_b))
    found = contrasts.contrast(first, second, list(runs.get_level_values(LABELLED)))
    return row | dataclasses.asdict(found) | {"seeds": runs.get_level_values(SEED).nunique()}


def ranking(part: Part, metric: str = PRIMARY) -> tuple[float, int]:
    """Kendall's W of the arms' ranks over seeds, of the labelled sets that all arms have for all
    seeds, and the number of seeds; (NaN, n) for fewer than two seeds or arms.
    """
    runs = part.scores[part.scores["metric"] == metric].groupby([SEED, LABELLED, ARM])["value"].mean().unstack(ARM)
    seeds = runs.dropna().index.get_level_values(SEED).unique()
    complete = runs.dropna().groupby(LABELLED).filter(lambda of_set: len(of_set) == len(seeds))
    by_seed = complete.groupby(SEED).mean()
    return contrasts.rank_stability(by_seed.to_numpy()), len(by_seed)


def labels_saved(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """For every arm and number of labels of `means`, how many labelled subjects it saves against
    the baseline; empty where fewer than two numbers of labels are known.
    """
    curve = table[table["labels"] != ALL].astype({"labels": float}).sort_values("labels")
    base = curve[curve["arm"] == study.baseline]
    if base["labels"].nunique() < 2:
        return pd.DataFrame(columns=["arm", "labels", "saved"])
    frames = []
    for arm, of_arm in curve[curve["arm"] != study.baseline].groupby("arm", sort=False):
        curves = (list(column) for table in (base, of_arm) for column in (table["labels"], table[PRIMARY]))
        saved = contrasts.labels_saved(*curves)
        frames.append(pd.DataFrame({"arm": arm, "labels": of_arm["labels"], "saved": saved}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["arm", "labels", "saved"])


def labels_text(labels: object) -> str:
    """The number of labelled subjects of a row, in words."""
    return "all sets" if labels == ALL else f"{labels:g} labelled"


def _of_shared_sets(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores on the labelled sets that every arm has."""
    arms = scores.groupby(LABELLED)[ARM].nunique()
    return scores[scores[LABELLED].isin(arms.index[arms == scores[ARM].nunique()])]


def _by_labels(scores: pd.DataFrame, shared: pd.DataFrame | None = None) -> Iterator[tuple[object, pd.DataFrame]]:
    """All scores together where there are several numbers of labelled subjects, or unknown ones,
    and then those of each number. shared: the scores that count as all.
    """
    numbers = sorted(scores["labels"].dropna().unique())
    if len(numbers) != 1 or scores["labels"].isna().any():
        pooled = scores if shared is None else scores[scores.index.isin(shared.index)]
        if len(pooled):
            yield ALL, pooled
    for number in numbers:
        yield number, scores[scores["labels"] == number]


def _counts(values: pd.DataFrame) -> dict[str, int]:
    return {
        "runs": len(values),
        "sets": values.index.get_level_values(LABELLED).nunique(),
        "seeds": values.index.get_level_values(SEED).nunique(),
        "subjects": values.shape[1],
    }
