"""The best, the median and the worst case of two arms of a study, as pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.study.jobs import Job
from analysis.study.scores import matrix, scored
from analysis.study.spec import ARM, LABELLED, SEED, Study
from analysis.study.state import State
from analysis.study.tables import PRIMARY, Part
from morphojax.inference import cases
from morphojax.reports import figures
from morphojax.reports.cases import chosen
from morphojax.reports.document import Block, Section

_NOTE = (
    "Of the baseline, and of the arm of the largest paired difference to it. By a subject's mean Dice over all runs of the arm. "
    "The pictures are of one run: the one whose mean Dice is nearest to the arm's. They show the middle slice of the left "
    "ventricle at ED (or the first annotated phase), on the network's grid. Solid line: reference; dashed line: prediction."
)


def section(
    study: Study, part: Part, compared: pd.DataFrame | None, jobs: Sequence[Job], states: Mapping[str, State]
) -> Iterator[Section]:
    """compared: contrasts of Dice, of `tables.compare`; None where there is one arm."""
    arms = [arm for arm in (study.baseline, best(study, compared)) if arm is not None and arm in set(part.scores[ARM])]
    blocks = [_block(study, part, arm, jobs, states) for arm in arms]
    if any(block.kind == "figure" for block in blocks):
        blocks = [Block("text", _NOTE), *blocks]
    yield Section(f"Best, median and worst cases{f' ({part.name})' if part.name else ''}", blocks)


def best(study: Study, compared: pd.DataFrame | None) -> str | None:
    """The arm of the largest paired difference to the baseline; None where no arm has one."""
    if compared is None:
        return None
    first = compared[~compared.duplicated(["a", "b"])]  # on all labelled sets
    gains = first[first["b"] == study.baseline].dropna(subset="mean")
    return None if gains.empty else str(gains["a"].iloc[gains["mean"].argmax()])


def _block(study: Study, part: Part, arm: str, jobs: Sequence[Job], states: Mapping[str, State]) -> Block:
    values = matrix(part.scores[part.scores[ARM] == arm], PRIMARY)
    found = _typical(values, _files(study, part, arm, jobs, states))
    if found is None:
        split = study.evaluate["split"]
        return Block("text", f"{arm}: no pictures. An earlier version scored its runs and wrote no cases_{split}.npz.")
    run, path = found
    tiles = []
    try:
        for name, subject in chosen(values.mean(axis=0)).items():
            case = cases.read(path, subject)
            if case is not None:
                dice = f"Dice {values[subject].mean():.3f}, in this run {values.loc[run, subject]:.3f}"
                where = f"{case.plane} {case.phase}, slice {case.slice}"
                tiles.append((case.picture, f"{name}: subject {subject}\n{dice}\n{where}"))
    except ValueError as error:
        return Block("text", f"{arm}: no pictures. {error}")
    if not tiles:
        return Block("text", f"{arm}: no pictures. {path} holds none of the subjects that were scored.")
    text = f"{arm}: run of labelled set {run[0]}, seed {run[1]} (one of {len(values)})"
    return Block("figure", text, svg=figures.contours(tiles))


def _files(
    study: Study, part: Part, arm: str, jobs: Sequence[Job], states: Mapping[str, State]
) -> dict[tuple[str, str], Path]:
    """Labelled set and seed -> the file of cases, of an arm's runs that have one."""
    wanted = {ARM: arm} | {axis: part.scores[axis].iloc[0] for axis in study.strata}
    return {
        (cell.values[LABELLED], cell.values[SEED]): path
        for job, cell in scored(jobs, states)
        if all(cell.values[axis] == value for axis, value in wanted.items())
        and (path := job.run / "evaluation" / f"cases_{study.evaluate['split']}.npz").is_file()
    }


def _typical(values: pd.DataFrame, files: Mapping[tuple[str, str], Path]) -> tuple[tuple[str, str], Path] | None:
    """The run, among those with a file, whose mean Dice is nearest to that of all runs."""
    means = values.mean(axis=1)
    distances = {run: abs(mean - means.mean()) for run, mean in means.items() if run in files}
    if not distances:
        return None
    run = min(distances, key=distances.__getitem__)
    return run, files[run]
