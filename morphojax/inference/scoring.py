"""Predictions of runs against the labels of a prepared dataset, stack by stack on the native grids.

Only structures that the run predicts and the annotators of that very stack drew are scored. Conventions: evaluation/overlap.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import clinical, overlap
from morphojax.inference.segmenter import Run

WORST = 6  # tiles that are kept of the worst stacks


class ScoringError(ValueError):
    """What cannot be scored. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Heart:
    """One plane of a subject: the structures annotated and predicted, and by phase the stacks (reference, predicted)."""

    structures: tuple[str, ...]
    phases: dict[str, tuple[clinical.Stack, clinical.Stack]]

    def at(self, phase: str, which: int) -> clinical.Stack | None:
        return self.phases[phase][which] if phase in self.phases else None


@dataclasses.dataclass(frozen=True)
class Result:
    """scores, measures: per subject (with ids); worst: tiles for `figures.worst_cases` (without)."""

    scores: pd.DataFrame
    measures: pd.DataFrame
    worst: list[tuple[np.ndarray, np.ndarray, np.ndarray, str]]


def by_plane(runs: Sequence[Run]) -> dict[str, Run]:
    """The run that segments each plane. Raises ScoringError where two do."""
    found: dict[str, Run] = {}
    for run in runs:
        for plane in run.planes:
            if plane in found:
                raise ScoringError(f"two of the runs segment {plane}: score them one by one")
            found[plane] = run
    return {plane: found[plane] for plane in anatomy.PLANES if plane in found}


def check(runs: Mapping[str, Run], dataset: Dataset, split: str) -> dict[str, tuple[str, ...]]:
    """The structures to score in each plane that has any. Raises ScoringError where the dataset does not fit the runs, or the split
    is empty."""
    manifest = dataset.manifest
    found: dict[str, tuple[str, ...]] = {}
    for plane, run in runs.items():
        if plane not in manifest.planes:
            raise ScoringError(f"{dataset.root} holds no plane {plane!r}, which the run was trained on; prepare it")
        for name, mine, theirs in (
            ("grid", run.grid, manifest.grid),
            ("intensity percentiles", run.percentiles, tuple(manifest.percentiles)),
        ):
            if mine != theirs:
                raise ScoringError(
                    f"{dataset.root} was prepared with {name} {theirs}, the run with {mine}; "
                    "prepare the dataset anew with the run's settings"
                )
        found[plane] = tuple(s for s in run.structures_of(plane) if s in manifest.labelled[plane])
        if not found[plane]:
            raise ScoringError(
                f"{dataset.root} labels {', '.join(manifest.labelled[plane]) or 'nothing'} in {plane}, "
                f"the run predicts {', '.join(run.structures)}: there is nothing to score"
            )
    if split not in SPLITS:
        raise ScoringError(f"--split={split} is unknown; choose among {', '.join(SPLITS)}")
    with_labels = {plane: names for plane, names in found.items() if _stacks(dataset, plane, split, names)}
    if not with_labels:
        counts = {s: int((dataset.splits == s).sum()) for s in SPLITS}
        raise ScoringError(
            f"{dataset.root}: no labelled {' or '.join(runs)} stack in --split={split} (subjects per split: {counts})"
        )
    return with_labels


def _stacks(dataset: Dataset, plane: str, split: str, structures: Sequence[str]) -> list[Any]:
    """The stacks of a split in which one of the structures was annotated."""
    columns = [anatomy.STRUCTURES.index(s) for s in structures]
    chosen = dataset.stacks(plane)[dataset.annotated(plane)[:, columns].any(axis=1)]
    chosen = chosen[chosen["phase"].isin(anatomy.PHASES)]  # other frames of a cine hold some of these once more
    return list(chosen[dataset.splits[chosen["subject"].to_numpy(int)] == split].itertuples())


def score(
    runs: Mapping[str, Run], dataset: Dataset, split: str, heart_rate: str | None = None, progress: bool = True
) -> Result:
    """Predicts and scores every labelled stack of a split at ED, mid and ES, in every plane; of each the structures annotated in it.

    runs: the run of each plane (`by_plane`).
    heart_rate: the table column with beats per minute, for cardiac output.
    """
    structures = check(runs, dataset, split)
    if heart_rate is not None and heart_rate not in dataset.table.columns:
        raise ScoringError(f"--heart_rate={heart_rate}: no such column in the table of {dataset.root}")
    rows: list[dict[str, Any]] = []
    worst: list[tuple[float, tuple[np.ndarray, np.ndarray, np.ndarray, str]]] = []
    hearts: dict[int, dict[str, Heart]] = {}
    stacks = [(plane, stack) for plane in structures for stack in _stacks(dataset, plane, split, structures[plane])]
    for plane, stack in tqdm(stacks, desc=f"score {split}", unit="stack", disable=not progress):
        run, slices = runs[plane], dataset.slices(plane)
        label, placement = dataset.native(plane, stack.Index)
        if label is None:
            raise ScoringError(f"{dataset.root}: stack {stack.Index} of {plane} is marked labelled but has no label")
        records = [slices[i] for i in range(stack.first, stack.first + stack.slices)]
        on_grid = run.predict_grid(np.stack([r["image"] for r in records]))
        predicted = run.labels(run.to_native(on_grid, placement), plane)
        spacing = placement.native_spacing
        drawn = tuple(s for s in structures[plane] if s in stack.structures.split())
        heart = hearts.setdefault(stack.subject, {}).setdefault(plane, Heart(drawn, {}))
        heart.phases[stack.phase] = ((label, spacing), (predicted, spacing))
        who = {"subject": dataset.subjects[stack.subject], "index": stack.subject, "plane": plane, "phase": stack.phase}
        found = {
            s: overlap.score(label == anatomy.LABEL_ID[s], predicted == anatomy.LABEL_ID[s], spacing) for s in drawn
        }
        rows += [who | _row(plane, s, score, label, predicted, spacing) for s, score in found.items()]
        counted = {s: score.dice for s, score in found.items() if np.isfinite(score.dice)}
        lowest = min(counted, key=counted.__getitem__, default=None)
        if lowest is not None and counted[lowest] < 1:
            title = f"subject {stack.subject} {plane} {stack.phase}, {anatomy.LABEL_NAME[lowest]} Dice {counted[lowest]:.2f}"
            worst.append((counted[lowest], _worst_slice(records, run.labels(on_grid, plane), drawn, title)))
            worst = sorted(worst, key=lambda case: case[0])[:WORST]
    measures = [
        {"subject": dataset.subjects[i], "index": i, "plane": plane, "measure": name, "reference": a, "predicted": b}
        for i, views in hearts.items()
        for plane, name, a, b in _measures(views, _rate(dataset, i, heart_rate))
    ]
    return Result(pd.DataFrame(rows), pd.DataFrame(measures), [tile for _, tile in worst])


def _row(
    plane: str, structure: str, score: overlap.Score, label: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]
) -> dict[str, Any]:
    reference, unit = clinical.size(plane, label, structure, spacing)
    return {
        "structure": structure,
        "dice": score.dice,
        "hd95_mm": score.hd95,
        "hd95_directed_mm": score.hd95_directed,
        "assd_mm": score.assd,
        "missed": score.missed,
        "spurious": score.spurious,
        f"reference_{unit}": reference,
        f"predicted_{unit}": clinical.size(plane, predicted, structure, spacing)[0],
    }


def _worst_slice(
    records: Sequence[dict[str, np.ndarray]], predicted: np.ndarray, structures: Sequence[str], title: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """The slice of a stack, on the grid, on which label and prediction differ most; only structures that were drawn."""
    drawn = [anatomy.LABEL_ID[s] for s in structures]
    label, predicted = (np.where(np.isin(x, drawn), x, 0) for x in (np.stack([r["label"] for r in records]), predicted))
    z = int((label != predicted).sum((1, 2)).argmax())
    return records[z]["image"], label[z], predicted[z], f"{title}\nslice {z}"


def _rate(dataset: Dataset, subject: int, column: str | None) -> float:
    return float("nan") if column is None else float(pd.to_numeric(dataset.table[column], errors="coerce")[subject])


def _measures(views: Mapping[str, Heart], heart_rate: float) -> list[tuple[str, str, float, float]]:
    """Plane, measure, reference and prediction of one subject; a measure of two planes has the plane BIPLANE."""
    reference, predicted = (
        clinical.of_heart({p: (h.at("ED", i), h.at("ES", i), h.structures) for p, h in views.items()}, heart_rate)
        for i in (0, 1)
    )
    return [(plane, name, value, predicted[plane, name]) for (plane, name), value in reference.items()]
