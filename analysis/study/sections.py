"""The sections of a report."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.study import blocks, cases, figures, tables
from analysis.study.jobs import Job
from analysis.study.scores import CLINICAL, HEADINGS, METRICS, NOT_COMPUTED, POSITIONS, lacking, scored
from analysis.study.spec import ARM, Study
from analysis.study.state import DONE, OPTIONAL, State
from morphojax.reports.document import Block, Section


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


def of_part(
    study: Study,
    part: tables.Part,
    compared: Mapping[str, pd.DataFrame],
    jobs: Sequence[Job],
    states: Mapping[str, State],
) -> Iterator[Section]:
    title = f" ({part.name})" if part.name else ""
    means = tables.means(study, part)
    arms = list(means["arm"].unique())
    yield Section(
        f"Arms{title}",
        [
            blocks.means_table(means, tuple(METRICS)),
            blocks.sets_table(study, part, arms),
            Block("figure", "Mean Dice of every run", svg=figures.runs(part, arms)),
        ],
    )
    if compared:
        yield from _planned(study, part, compared, title)
    yield from clinical(study, part, title)
    yield from positions(study, part, title)
    yield from cases.section(study, part, compared.get(tables.PRIMARY), jobs, states)
    others = {metric: table[~table["planned"]] for metric, table in compared.items()}
    if len(others.get(tables.PRIMARY, ())):
        text = "Not planned: read these as hypotheses. No interval here is corrected for their number."
        unpaired = others[tables.PRIMARY].groupby("a", sort=False)["mean"].count()
        if names := [str(arm) for arm, n in unpaired.items() if not n]:
            text += f" No pair of runs is done of {', '.join(names)}."
        content = [Block("text", text), *(blocks.contrast_table(t, m) for m, t in others.items())]
        yield Section(f"Every arm against {study.baseline}{title}", content)
    yield from _efficiency(study, means, title)
    agreement, seeds = tables.ranking(part)
    if seeds > 1:
        text = (
            f"Kendall's W of the arms' ranks over {seeds} seeds: {agreement:.2f} (1: the same order with every seed)."
        )
        yield Section(f"Stability of the ranking{title}", [Block("text", text)])


def _planned(study: Study, part: tables.Part, compared: Mapping[str, pd.DataFrame], title: str) -> Iterator[Section]:
    planned = {metric: table[table["planned"]] for metric, table in compared.items()}
    if not len(planned[tables.PRIMARY]):
        return
    content = [Block("list", lines=list(sentences(planned[tables.PRIMARY])))]
    for metric, table in planned.items():
        label = HEADINGS[metric][0]
        figure = Block("figure", f"Planned contrasts, {label}", svg=figures.forest(table, label))
        content += [blocks.contrast_table(table, metric), figure]
    yield Section(f"Planned contrasts{title}", [*content, Block("text", _METHOD)])
    by_structure = tables.by_structure(part, study.contrasts)
    if len(by_structure):
        note = Block("text", "Dice, all labelled sets; no interval is corrected for their number.")
        table = blocks.structure_table(by_structure)
        yield Section(f"Planned contrasts by structure and phase{title}", [note, table])


def clinical(study: Study, part: tables.Part, title: str = "") -> Iterator[Section]:
    """Nothing where no clinical measure was scored."""
    values = {m: v for m, v in part.scores.groupby("metric")["value"] if m in (*CLINICAL, *NOT_COMPUTED)}
    if not values:
        return
    lines = ["Mean absolute error of the prediction's measure, over runs and subjects."]
    for metric in (m for m in NOT_COMPUTED if m in values):
        name, found = NOT_COMPUTED[metric][0].split(",")[0], values[metric]
        none = "" if not found.sum() else "; each counts as the largest error of an EF between 0 and 100 %"
        lines.append(f"{name} (a phase without the cavity): {found.sum():.0f} of {found.count()} predictions{none}.")
        if found.isna().any():
            lines.append(f"{name}: {found.isna().sum()} of {len(found)} references; they are in no mean.")
    metrics = [m for m in CLINICAL if m in values] + [m for m in NOT_COMPUTED if m in values and values[m].any()]
    table = blocks.means_table(tables.means(study, part, metrics), metrics)
    yield Section(f"Clinical errors{title}", [table, Block("list", lines=lines)])


def positions(study: Study, part: tables.Part, title: str = "") -> Iterator[Section]:
    """Nothing where no position was scored, as in a long axis."""
    scored_metrics = set(part.scores["metric"].unique())
    metrics = [metric for metric in POSITIONS if metric in scored_metrics]
    if not metrics:
        return
    text = (
        "Basal, middle and apical third of the slices in which the reference has the left ventricle, mean over structures. "
        "Slices without it belong to no third, whatever the prediction has there."
    )
    table = blocks.means_table(tables.means(study, part, metrics), metrics)
    yield Section(f"Dice by slice position{title}", [table, Block("text", text)])


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


def _efficiency(study: Study, means: pd.DataFrame, title: str) -> Iterator[Section]:
    if means.loc[means["labels"] != tables.ALL, "labels"].nunique() < 2:
        return
    blocks = [Block("figure", "Mean Dice by number of labelled subjects", svg=figures.label_efficiency(means))]
    saved = tables.labels_saved(study, means).dropna()
    if len(saved):
        rows = [[r["arm"], f"{r['labels']:g}", f"{r['saved']:+.1f}"] for r in saved.to_dict("records")]
        blocks.append(Block("table", head=["arm", "labelled", f"labels saved against {study.baseline}"], rows=rows))
    yield Section(f"Label efficiency{title}", blocks)


def missing(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> Section:
    lines = [
        f"{job.name}: {states[job.name].status}. {states[job.name].why}".strip()
        for job in jobs
        if states[job.name].status != DONE
    ]
    n_done = len(list(scored(jobs, states)))
    for name, cells in lacking(study, jobs, states).items():
        which = f"{len(cells)} of {n_done} scored cells" + (f" ({', '.join(cells)})" if len(cells) < n_done else "")
        if cells:
            lines.append(
                f"No {OPTIONAL[name]} of {which}: an earlier version scored them and wrote no "
                f"{name}_{study.evaluate['split']}.csv. They are left out there."
            )
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
