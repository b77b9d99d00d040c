"""The tables of a report."""

from collections.abc import Sequence

import pandas as pd

from analysis.study import scores, tables
from analysis.study.scores import HEADINGS
from analysis.study.spec import ARM, LABELLED, Study
from morphojax import anatomy
from morphojax.reports.document import Block


def means_table(means: pd.DataFrame, metrics: Sequence[str]) -> Block:
    """A row per arm and number of labels that has a value. metrics: of `means`; the first has an
    interval.
    """
    first, *others = metrics
    digits = HEADINGS[first][1]
    head = ["arm", "labelled", "runs", f"{HEADINGS[first][0]} [95 % interval]", *(HEADINGS[m][0] for m in others)]
    rows = []
    for row in means.dropna(subset=list(metrics), how="all").to_dict("records"):
        interval = f"{row[first]:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        cells = ["" if pd.isna(row[m]) else f"{row[m]:.{HEADINGS[m][1]}f}" for m in others]
        runs = f"{row['runs']} (sets {row['sets']}, seeds {row['seeds']})"
        rows.append([row["arm"], tables.labels_text(row["labels"]), runs, interval, *cells])
    return Block("table", head=head, rows=rows)


def sets_table(study: Study, part: tables.Part, arms: Sequence[str]) -> Block:
    """Mean Dice by labelled set, seeds averaged, with their number where they are several."""
    runs = part.scores[part.scores["metric"] == tables.PRIMARY]
    matrices = {arm: scores.matrix(runs[runs[ARM] == arm], tables.PRIMARY).mean(axis=1) for arm in arms}
    sets = [name for name in study.axes[LABELLED] if name in set(runs[LABELLED])]
    rows = []
    for arm, values in matrices.items():
        by_set = values.groupby(LABELLED).agg(["mean", "size"]) if len(values) else pd.DataFrame()
        cells = (
            f"{by_set.loc[s, 'mean']:.3f} ({by_set.loc[s, 'size']:.0f})" if s in by_set.index else "" for s in sets
        )
        rows.append([arm, *cells])
    return Block("table", head=["Dice by labelled set (seeds)", *sets], rows=rows)


def contrast_table(table: pd.DataFrame, metric: str) -> Block:
    """A row per contrast that has a pair of runs; p (Holm) only of planned ones, unpaired only
    where there are some.
    """
    table = table.dropna(subset="mean")
    digits = HEADINGS[metric][1]
    forms = {
        "p_value": ".2g",
        "p_holm": ".2g",
        "improvement": ".2f",
        "effect_size": "+.2f",
        "detectable": f".{digits}f",
    }
    names = {
        "p_value": "p",
        "p_holm": "p (Holm)",
        "improvement": "P(a > b)",
        "effect_size": "d_z",
        "detectable": "detectable",
    }
    shown = [name for name in forms if name != "p_holm" or table["planned"].any()]
    head = [
        "contrast a - b",
        "labelled",
        "pairs of runs",
        "subjects",
        f"{HEADINGS[metric][0]} [95 %]",
        "t interval",
    ]
    head += [*(names[name] for name in shown), *(["unpaired"] if table["unpaired"].any() else [])]
    rows = []
    for row in table.to_dict("records"):
        cells = [f"{row['a']} - {row['b']}", tables.labels_text(row["labels"])]
        cells += [
            f"{row['n_runs']:.0f} (sets {row['n_sets']:.0f}, seeds {row['seeds']:.0f})",
            f"{row['n_subjects']:.0f}",
        ]
        cells += [f"{row['mean']:+.{digits}f} [{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]"]
        cells += ["" if pd.isna(row["t_low"]) else f"[{row['t_low']:+.{digits}f}, {row['t_high']:+.{digits}f}]"]
        cells += ["" if pd.isna(row[name]) else f"{row[name]:{forms[name]}}" for name in shown]
        rows.append([*cells, *([str(row["unpaired"])] if table["unpaired"].any() else [])])
    return Block("table", head=head, rows=rows)


def structure_table(table: pd.DataFrame) -> Block:
    """A row per contrast, a column per structure and phase."""
    columns = list(dict.fromkeys(zip(table["structure"], table["phase"], strict=True)))
    rows = []
    for (a, b), of_pair in table.groupby(["a", "b"], sort=False):
        cells = of_pair.set_index(["structure", "phase"]).to_dict("index")
        texts = (
            f"{c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]" if (c := cells.get(k)) else "" for k in columns
        )
        rows.append([f"{a} - {b}", *texts])
    names = [f"{anatomy.LABEL_NAME[structure]} {phase}" for structure, phase in columns]
    return Block("table", head=["contrast a - b", *names], rows=rows)
