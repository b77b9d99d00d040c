"""Scores of segmentation runs against the labels of a prepared dataset, on the native grids.

A structure is scored where the run predicts it and it is annotated in that stack.
Conventions: evaluation/overlap.py, evaluation/positions.py.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.errors import NamedError
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import clinical, overlap, positions
from morphojax.inference import cases
from morphojax.inference.cases import Case, Tile
from morphojax.inference.segmenter import Run
from morphojax.progress import bar as progress_bar

WORST = 6  # stacks of the lowest Dice that are drawn


class ScoringError(NamedError):
    """Runs, a dataset or a split that cannot be scored. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Heart:
    """One plane of a subject.

    structures: annotated and predicted.
    phases:     by phase, the stacks (reference, predicted).
    """

    structures: tuple[str, ...]
    phases: dict[str, tuple[clinical.Stack, clinical.Stack]]

    def at(self, phase: str, which: int) -> clinical.Stack | None:
        """The reference (0) or predicted (1) stack of a phase."""
        return self.phases[phase][which] if phase in self.phases else None


@dataclasses.dataclass(frozen=True)
class Result:
    """scores, positions, measures: per subject, with ids. worst, cases: without ids.

    cases: of every subject and plane, at ED, or the first phase where ED is not annotated.
    tolerance_mm: of the surface Dice.
    """

    scores: pd.DataFrame
    positions: pd.DataFrame
    measures: pd.DataFrame
    worst: list[Tile]
    cases: list[Case]
    tolerance_mm: float


def by_plane(runs: Sequence[Run]) -> dict[str, Run]:
    """The run that segments each plane. Raises ScoringError where two segment the same plane."""
    chosen: dict[str, Run] = {}
    for run in runs:
        for plane in run.planes:
            if plane in chosen:
                raise ScoringError(f"two of the runs segment {plane}: score them one at a time")
            chosen[plane] = run
    return {plane: chosen[plane] for plane in anatomy.PLANES if plane in chosen}


def check(runs: Mapping[str, Run], dataset: Dataset, split: str) -> dict[str, tuple[str, ...]]:
    """The structures to score in each plane that has labelled stacks in the split.

    Raises ScoringError where the dataset does not fit the runs, or the split has no labelled stack.
    """
    scored = {plane: _check_plane(plane, run, dataset) for plane, run in runs.items()}
    if split not in SPLITS:
        raise ScoringError(f"--split={split} is unknown; choose among {', '.join(SPLITS)}")
    labelled = {plane: names for plane, names in scored.items() if _stacks(dataset, plane, split, names)}
    if not labelled:
        counts = {s: int((dataset.splits == s).sum()) for s in SPLITS}
        raise ScoringError(
            f"{dataset.root}: no labelled {' or '.join(runs)} stack in --split={split} (subjects per split: {counts})"
        )
    return labelled


def _check_plane(plane: str, run: Run, dataset: Dataset) -> tuple[str, ...]:
    """The structures that the run predicts in the plane and the dataset annotates.

    Raises ScoringError where run and dataset do not fit.
    """
    manifest = dataset.manifest
    if plane not in manifest.planes:
        raise ScoringError(f"{dataset.root} holds no plane {plane!r}, which the run was trained on; prepare it")
    for name, of_run, of_dataset in (
        ("grid", run.grid, manifest.grid),
        ("intensity percentiles", run.percentiles, tuple(manifest.percentiles)),
    ):
        if of_run != of_dataset:
            raise ScoringError(
                f"{dataset.root} was prepared with {name} {of_dataset}, the run with {of_run}; "
                "prepare the dataset anew with the run's settings"
            )
    structures = tuple(s for s in run.structures_of(plane) if s in manifest.labelled[plane])
    if not structures:
        raise ScoringError(
            f"{dataset.root} labels {', '.join(manifest.labelled[plane]) or 'nothing'} in {plane}, "
            f"the run predicts {', '.join(run.structures)}: there is nothing to score"
        )
    return structures


def _stacks(dataset: Dataset, plane: str, split: str, structures: Sequence[str]) -> list[Any]:
    """The stacks of a split in which one of the structures is annotated, at a named phase."""
    columns = [anatomy.STRUCTURES.index(s) for s in structures]
    chosen = dataset.stacks(plane)[dataset.annotated(plane)[:, columns].any(axis=1)]
    chosen = chosen[chosen["phase"].isin(anatomy.PHASES)]  # the numbered frames of a cine repeat some of these
    return list(chosen[dataset.splits[chosen["subject"].to_numpy(int)] == split].itertuples())


def score(
    runs: Mapping[str, Run],
    dataset: Dataset,
    split: str,
    heart_rate: str | None = None,
    progress: bool = True,
    tolerance_mm: float = overlap.TOLERANCE_MM,
) -> Result:
    """Predicts and scores every labelled stack of a split at ED, mid and ES, in every plane.

    Args:
        runs: the run of each plane (`by_plane`).
        heart_rate: the table column in beats per minute, for cardiac output.
        tolerance_mm: of the surface Dice.

    Raises:
        ScoringError: as `check`, and where there is no such column.
        ValueError: for a negative or infinite tolerance.
    """
    overlap.check_tolerance(tolerance_mm)
    structures = check(runs, dataset, split)
    if heart_rate is not None and heart_rate not in dataset.table.columns:
        raise ScoringError(f"--heart_rate={heart_rate}: no such column in the table of {dataset.root}")
    rows: list[dict[str, Any]] = []
    worst: list[tuple[float, Tile]] = []
    pictured: dict[tuple[int, str], Case] = {}
    hearts: dict[int, dict[str, Heart]] = {}
    stacks = [(plane, stack) for plane in structures for stack in _stacks(dataset, plane, split, structures[plane])]
    for plane, stack in progress_bar(stacks, desc=f"score {split}", unit="stack", show=progress):
        annotated = tuple(s for s in structures[plane] if s in stack.structures.split())
        scored = _score_stack(runs[plane], dataset, plane, stack, annotated, tolerance_mm)
        heart = hearts.setdefault(stack.subject, {}).setdefault(plane, Heart(annotated, {}))
        heart.phases[stack.phase] = (scored.reference, scored.predicted)
        rows += scored.rows
        first = pictured.setdefault((stack.subject, plane), scored.case)
        if anatomy.PHASES.index(stack.phase) < anatomy.PHASES.index(first.phase):
            pictured[stack.subject, plane] = scored.case
        if scored.worst is not None:
            worst = sorted([*worst, scored.worst], key=lambda case: case[0])[:WORST]
    measures = [
        {"subject": dataset.subjects[i], "index": i, "plane": plane, "measure": name, "reference": a, "predicted": b}
        for i, views in hearts.items()
        for plane, name, a, b in _measures(views, _rate(dataset, i, heart_rate))
    ]
    by_position = pd.DataFrame(
        [
            {"subject": dataset.subjects[i], "index": i} | row
            for i, views in hearts.items()
            if positions.PLANE in views
            for row in _positions(views[positions.PLANE])
        ],
        columns=pd.Index(("subject", "index", *positions.COLUMNS)),
    )
    tiles = [tile for _, tile in worst]
    shown = list(pictured.values())
    return Result(pd.DataFrame(rows), by_position, pd.DataFrame(measures), tiles, shown, tolerance_mm)


@dataclasses.dataclass(frozen=True)
class _Scored:
    """One stack: rows of the score table, both labels, the lowest Dice below 1 with its tile, and
    its case.
    """

    rows: list[dict[str, Any]]
    reference: clinical.Stack
    predicted: clinical.Stack
    worst: tuple[float, Tile] | None
    case: Case


def _score_stack(
    run: Run, dataset: Dataset, plane: str, stack: Any, structures: tuple[str, ...], tolerance_mm: float
) -> _Scored:
    """stack: a row of `dataset.stacks(plane)`. tolerance_mm: of the surface Dice."""
    label, placement = dataset.native(plane, stack.Index)
    if label is None:
        raise ScoringError(f"{dataset.root}: stack {stack.Index} of {plane} is marked labelled but has no label")
    slices = dataset.slices(plane)
    records = [slices[i] for i in range(stack.first, stack.first + stack.slices)]
    on_grid = run.predict_grid(np.stack([r["image"] for r in records]))
    predicted, spacing = run.labels(run.to_native(on_grid, placement), plane), placement.native_spacing
    about = {"subject": dataset.subjects[stack.subject], "index": stack.subject, "plane": plane, "phase": stack.phase}
    scores = {
        s: overlap.score(label == anatomy.LABEL_ID[s], predicted == anatomy.LABEL_ID[s], spacing, tolerance_mm)
        for s in structures
    }
    rows = [about | _row(plane, s, score, label, predicted, spacing) for s, score in scores.items()]
    dice = {s: score.dice for s, score in scores.items() if np.isfinite(score.dice)}
    lowest, worst = min(dice, key=dice.__getitem__, default=None), None
    pictures = cases.stack(records, run.labels(on_grid, plane), structures)
    if lowest is not None and dice[lowest] < 1:
        title = f"subject {stack.subject} {plane} {stack.phase}, {anatomy.LABEL_NAME[lowest]} Dice {dice[lowest]:.2f}"
        worst = dice[lowest], cases.most_different(pictures, title)
    case = Case(int(stack.subject), plane, stack.phase, *cases.middle(pictures))
    return _Scored(rows, (label, spacing), (predicted, spacing), worst, case)


def _row(
    plane: str, structure: str, score: overlap.Score, label: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]
) -> dict[str, Any]:
    """The columns of the score table that belong to one structure."""
    reference, unit = clinical.size(plane, label, structure, spacing)
    return {
        "structure": structure,
        "dice": score.dice,
        "surface_dice": score.surface_dice,
        "hd95_mm": score.hd95,
        "hd95_directed_mm": score.hd95_directed,
        "assd_mm": score.assd,
        "missed": score.missed,
        "spurious": score.spurious,
        f"reference_{unit}": reference,
        f"predicted_{unit}": clinical.size(plane, predicted, structure, spacing)[0],
    }


def _positions(heart: Heart) -> Iterator[dict[str, Any]]:
    """Rows of `positions.COLUMNS` of a short-axis view. Its phases together show which end is the
    base.
    """
    base_first = positions.base_is_first(reference for (reference, _), _ in heart.phases.values())
    for phase, ((reference, _), (predicted, _)) in heart.phases.items():
        for row in positions.score(reference, predicted, heart.structures, base_first):
            yield {"plane": positions.PLANE, "phase": phase} | row


def _rate(dataset: Dataset, subject: int, column: str | None) -> float:
    """Beats per minute of a subject; NaN without a column."""
    return float("nan") if column is None else float(pd.to_numeric(dataset.table[column], errors="coerce")[subject])


def _measures(views: Mapping[str, Heart], heart_rate: float) -> list[tuple[str, str, float, float]]:
    """(plane, measure, reference, prediction) of one subject; plane BIPLANE where it needs two."""
    reference, predicted = (
        clinical.of_heart({p: (h.at("ED", i), h.at("ES", i), h.structures) for p, h in views.items()}, heart_rate)
        for i in (0, 1)
    )
    return [(plane, name, value, predicted[plane, name]) for (plane, name), value in reference.items()]
