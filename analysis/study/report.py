"""The report of a study: one HTML file, the same as Markdown with figures, and tables as CSV."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.study import material, scores, sections, tables
from analysis.study.dynamics_section import training_dynamics
from analysis.study.jobs import Job
from analysis.study.spec import ARM, Study
from analysis.study.state import State
from morphojax.data.store.records import write_atomically
from morphojax.reports.document import Section, to_html, to_markdown

SECONDARY = ("volume_error_ml", "lv_ef_error_percent_points")


@dataclasses.dataclass(frozen=True)
class Findings:
    """The scores of all cells, and the contrasts of every part by metric."""

    scores: pd.DataFrame
    parts: Sequence[tuple[tables.Part, Mapping[str, pd.DataFrame]]]


def find(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> Findings:
    """Raises StudyError where no cell is done, or scores cannot be compared."""
    long = scores.read(study, jobs, states)
    return Findings(long, [(part, _compared(study, part)) for part in tables.parts(study, long)])


def write(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> list[Path]:
    """Writes report.html, report.md with its figures, scores.csv (a row per value) and
    contrasts.csv to `<folder>/report`; of a part of the study to `<folder>/report_of_some`.

    Returns their paths. Raises StudyError as `find`.
    """
    findings = find(study, jobs, states)
    content: list[Section] = [
        sections.setup(study, jobs, states, findings.scores),
        material.section(study, jobs, states, findings.scores),
    ]
    for part, compared in findings.parts:
        content += sections.of_part(study, part, compared, jobs, states)
    content.append(training_dynamics(study, jobs, states))
    content += [sections.missing(study, jobs, states), sections.commands(study, jobs)]
    contrasts = [
        table.assign(part=part.name, metric=metric)
        for part, by_metric in findings.parts
        for metric, table in by_metric.items()
    ]
    folder = study.folder / ("report_of_some" if study.chosen else "report")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": to_html(study.question, content),
        "report.md": to_markdown(study.question, content, folder / "figures"),
        "scores.csv": findings.scores.to_csv(index=False, float_format="%.6g"),
        "contrasts.csv": pd.concat(contrasts).to_csv(index=False, float_format="%.6g"),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def _compared(study: Study, part: tables.Part) -> dict[str, pd.DataFrame]:
    """Metric -> the planned contrasts, and every other arm against the baseline."""
    planned = list(study.contrasts)
    with_cells = {cell.values[ARM] for cell in study.cells}
    to_baseline = [(arm, study.baseline) for arm in study.axes[ARM] if arm != study.baseline and arm in with_cells]
    others = [pair for pair in to_baseline if pair not in planned]
    compared = {}
    for metric in (tables.PRIMARY, *SECONDARY):
        if part.scores.loc[part.scores["metric"] == metric, "value"].notna().any():
            both = [
                tables.compare(part, planned, metric).assign(planned=True),
                tables.compare(part, others, metric, adjust=False).assign(planned=False),
            ]
            compared[metric] = pd.concat([table for table in both if len(table)] or both, ignore_index=True)
    return compared
