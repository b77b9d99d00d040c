"""The sections of a report."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.study import figures, scores, tables
from analysis.study.document import Block, Section
from analysis.study.jobs import Job
from analysis.study.scores import METRICS
from analysis.study.spec import ARM, LABELLED, Study
from analysis.study.state import DONE, State
from morphojax import anatomy


def setup(study: Study, jobs: Sequence[Job], states: Mapping[str, State], long: pd.DataFrame) -> Section:
    cells = [job for job in jobs if job.cell is not None]
    done = [job for job in cells if states[job.name].status == DONE]
    environments = [_read(job.run / "environment.json") for job in done]
    datasets = sorted({job.resolved["data"]["dataset"] for job in cells})
    lines = [
        f"{len(done)} of {len(cells)} cells are done: {', '.join(f'{axis} ({len(names)})' for axis, names in study.axes.items())}.",
        f"{long['subject'].nunique()} {study.evaluate['split']} subjects; dataset {', '.join(datasets)}, "
        f"fingerprint {', '.join(sorted(long['dataset'].unique()))}.",
        f"Baseline: {study.baseline}. Planned contrasts: {'; '.join(f'{a} - {b}' for a, b in study.contrasts) or 'none'}.",
        *([f"Only a part of the study: {'; '.join(study.chosen)}."] if study.chosen else []),
        f"Scored: {study.evaluate['checkpoint']} checkpoint, weights {study.evaluate['weights']}.",
        f"Commits of the runs: {', '.join(sorted({str(e.get('commit')) for e in environments}))}. "
        f"JAX {', '.join(sorted({e['packages']['jax'] or 'unknown' for e in environments}))}; "
        f"devices {', '.join(sorted({d for e in environments for d in e['devices']}))}.",
    ]
    return Section("Question and material", [Block("list", lines=lines)])


def of_part(study: Study, part: tables.Part, compared: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    title = f" ({part.name})" if part.name else ""
    means = tables.means(study, part)
    arms = list(means["arm"].unique())
    yield Section(
        f"Arms{title}",
        [
            _means_table(means),
            _sets_table(study, part, arms),
            Block("figure", "Mean Dice of every run", svg=figures.runs(part, arms)),
        ],
    )
    if compared:
        planned = {metric: table[table["planned"]] for metric, table in compared.items()}
        if len(planned[tables.PRIMARY]):
            blocks = [Block("list", lines=list(sentences(planned[tables.PRIMARY])))]
            for metric, table in planned.items():
                label = METRICS[metric][0]
                blocks += [
                    _contrast_table(table, metric),
                    Block("figure", f"Planned contrasts, {label}", svg=figures.forest(table, label)),
                ]
            yield Section(f"Planned contrasts{title}", [*blocks, Block("text", _METHOD)])
            by_structure = tables.by_structure(part, study.contrasts)
            if len(by_structure):
                note = Block("text", "Dice, all labelled sets; no interval is corrected for their number.")
                yield Section(
                    f"Planned contrasts by structure and phase{title}", [note, _structure_table(by_structure)]
                )
        others = {metric: table[~table["planned"]] for metric, table in compared.items()}
        if len(others[tables.PRIMARY]):
            note = Block(
                "text", "Not planned: read these as hypotheses. No interval here is corrected for their number."
            )
            yield Section(
                f"Every arm against {study.baseline}{title}",
                [note, *(_contrast_table(t, m) for m, t in others.items())],
            )
    yield from _efficiency(study, means, title)
    agreement, seeds = tables.ranking(part)
    if seeds > 1:
        text = (
            f"Kendall's W of the arms' ranks over {seeds} seeds: {agreement:.2f} (1: the same order with every seed)."
        )
        yield Section(f"Stability of the ranking{title}", [Block("text", text)])


_METHOD = (
    "A subject's phases are averaged first, then its structures. Differences are paired by labelled set, seed and subject. "
    "The interval is the 95 % percentile interval of a hierarchical bootstrap over labelled sets, seeds and test subjects; it "
    "covers no variation of sets or seeds where there is one of them. Sets that share subjects, and runs that share a "
    "pretraining, count as independent, which makes it too narrow. The t interval and Wilcoxon's p-value are over subjects, "
    "each averaged over its runs: they cover no variation of sets and seeds. p (Holm) is corrected for the planned contrasts "
    "of this section. Detectable: the smallest difference that a t test over these subjects finds with 80 % power."
)
_POWER = 2.80 / (2 * 1.96)  # from an interval's width to the difference found with 80 % power: (z_0.975 + z_0.8) SE


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """A sentence per planned contrast, on the widest choice of labelled sets."""
    for row in table[~table.duplicated(["a", "b"])].to_dict("records"):
        pair = f"{row['a']} - {row['b']}"
        if pd.isna(row["mean"]):
            yield f"{pair}: no pair of runs is done."
            continue
        size = f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] Dice, {row['n_runs']:.0f} pairs of runs"
        if pd.isna(row["low"]):
            yield f"{pair}: {row['mean']:+.3f} Dice, from too few values for an interval."
        elif row["low"] <= 0 <= row["high"]:
            could = _POWER * (row["high"] - row["low"])
            more = f"; a difference of {could:.3f} would have been found in four of five such studies" if could else ""
            yield f"{pair}: no difference was found ({size}{more})."
        else:
            corrected = (
                "" if row["p_holm"] < 0.05 else f"; not significant after Holm's correction, p = {row['p_holm']:.2g}"
            )
            yield f"{pair}: {'higher' if row['mean'] > 0 else 'lower'} ({size}{corrected})."
        if row["seeds"] < 2:
            yield f"{pair}: one seed alone; the interval covers no variation of seeds."


def _means_table(means: pd.DataFrame) -> Block:
    head = [
        "arm",
        "labelled",
        "runs",
        "Dice [95 % interval]",
        *(METRICS[m][0] for m in METRICS if m != tables.PRIMARY),
    ]
    rows = []
    for row in means.to_dict("records"):
        interval = f"{row['dice']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        others = ["" if pd.isna(row[m]) else f"{row[m]:.{METRICS[m][1]}f}" for m in METRICS if m != tables.PRIMARY]
        rows.append(
            [
                row["arm"],
                tables.labels_text(row["labels"]),
                f"{row['runs']} (sets {row['sets']}, seeds {row['seeds']})",
                interval,
                *others,
            ]
        )
    return Block("table", head=head, rows=rows)


def _sets_table(study: Study, part: tables.Part, arms: Sequence[str]) -> Block:
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


def _contrast_table(table: pd.DataFrame, metric: str) -> Block:
    """A row per contrast; p (Holm) only of planned ones, unpaired only where there are some."""
    digits = METRICS[metric][1]
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
        f"{METRICS[metric][0]} [95 %]",
        "t interval",
    ]
    head += [*(names[name] for name in shown), *(["unpaired"] if table["unpaired"].any() else [])]
    rows = []
    for row in table.to_dict("records"):
        cells = [f"{row['a']} - {row['b']}", tables.labels_text(row["labels"])]
        if pd.isna(row["mean"]):
            cells += ["0", *[""] * (3 + len(shown))]
        else:
            cells += [
                f"{row['n_runs']:.0f} (sets {row['n_sets']:.0f}, seeds {row['seeds']:.0f})",
                f"{row['n_subjects']:.0f}",
            ]
            cells += [f"{row['mean']:+.{digits}f} [{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]"]
            cells += ["" if pd.isna(row["t_low"]) else f"[{row['t_low']:+.{digits}f}, {row['t_high']:+.{digits}f}]"]
            cells += ["" if pd.isna(row[name]) else f"{row[name]:{forms[name]}}" for name in shown]
        rows.append([*cells, *([str(row["unpaired"])] if table["unpaired"].any() else [])])
    return Block("table", head=head, rows=rows)


def _structure_table(table: pd.DataFrame) -> Block:
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


def _efficiency(study: Study, means: pd.DataFrame, title: str) -> Iterator[Section]:
    if means.loc[means["labels"] != tables.ALL, "labels"].nunique() < 2:
        return
    blocks = [Block("figure", "Mean Dice by number of labelled subjects", svg=figures.label_efficiency(means))]
    saved = tables.labels_saved(study, means).dropna()
    if len(saved):
        rows = [[r["arm"], f"{r['labels']:g}", f"{r['saved']:+.1f}"] for r in saved.to_dict("records")]
        blocks.append(Block("table", head=["arm", "labelled", f"labels saved against {study.baseline}"], rows=rows))
    yield Section(f"Label efficiency{title}", blocks)


def missing(jobs: Sequence[Job], states: Mapping[str, State]) -> Section:
    lines = [
        f"{job.name}: {states[job.name].status}. {states[job.name].why}".strip()
        for job in jobs
        if states[job.name].status != DONE
    ]
    return Section("Missing and failed", [Block("list", lines=lines) if lines else Block("text", "None.")])


def commands(study: Study, jobs: Sequence[Job]) -> Section:
    """The exact commands of the cells' first labelled set and seed, which the others repeat."""
    first: dict[tuple, Job] = {}
    for job in jobs:
        if job.cell is not None:
            first.setdefault(tuple(v for a, v in job.cell.values.items() if a in (ARM, *study.strata)), job)
    needed = {job.needs.name: job.needs for job in first.values() if job.needs is not None}
    text = "\n".join(
        shlex.join(["python", "-m", *command])
        for job in (*needed.values(), *first.values())
        for command in job.commands()
    )
    return Section("Commands, by the first labelled set and seed of every arm", [Block("code", text)])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
