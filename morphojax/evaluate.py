"""Scores a segmentation run on a split of a prepared dataset, on the native grids.

    python -m morphojax.evaluate --run=runs/segment_sax --split=test

Writes to --output (default: <run>/evaluation):
    scores_<split>.csv      per subject, plane, phase and structure: Dice, HD95, ASSD, size by reference and by prediction
    measures_<split>.csv    per subject and plane: clinical measures by reference and by prediction; the biplane volume of the
                            left atrium where both long-axis planes are scored
    agreement_<split>.csv   Bland-Altman bias and limits, mean absolute error and Pearson's r per measure
    summary_<split>.{csv,json}   mean and 95 % bootstrap interval over subjects per plane, structure and phase; no subject ids
    dice_<split>.png  agreement_<split>.png  worst_<split>.png   figures; a subject appears as its index. With several
                            planes dice_<plane>_<split>.png

Only structures that the run predicts and the annotators of that very stack drew are scored. Conventions: evaluation/overlap.py.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data.dataset import Dataset, DatasetError
from morphojax.data.records import RecordError, write_atomically
from morphojax.data.splits import SPLITS
from morphojax.evaluation import agreement, clinical, figures, overlap, statistics
from morphojax.train import cohort
from morphojax.train.checkpoint import CheckpointError
from morphojax.train.inference import Run, load_run
from morphojax.train.run import RunError

POOLED, MEAN = "pooled", "mean"
NAN = float("nan")
METRICS = ("dice", "hd95_mm", "hd95_directed_mm", "assd_mm")
CONVENTIONS = {
    "both_empty": "not counted",
    "one_empty": "Dice 0, distances the image diagonal in mm; counted in the mean",
    "hd95_mm": "95th percentile of the distances of both directions pooled (medpy)",
    "hd95_directed_mm": "larger of the two directions' 95th percentiles (MONAI)",
    "interval": "95 % BCa bootstrap over subjects; pooled: each subject's phases averaged first",
    "mean": "structures of a subject averaged first",
}
WORST = 6


class EvaluationError(ValueError):
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
    """The run that segments each plane. Raises EvaluationError where two do."""
    found: dict[str, Run] = {}
    for run in runs:
        for plane in run.planes:
            if plane in found:
                raise EvaluationError(f"two of the runs segment {plane}: score them one by one")
            found[plane] = run
    return {plane: found[plane] for plane in anatomy.PLANES if plane in found}


def check(runs: Mapping[str, Run], dataset: Dataset, split: str) -> dict[str, tuple[str, ...]]:
    """The structures to score in each plane that has any. Raises EvaluationError where the dataset does not fit the runs, or the split
    is empty."""
    manifest = dataset.manifest
    found: dict[str, tuple[str, ...]] = {}
    for plane, run in runs.items():
        if plane not in manifest.planes:
            raise EvaluationError(f"{dataset.root} holds no plane {plane!r}, which the run was trained on; prepare it")
        for name, mine, theirs in (
            ("grid", run.grid, manifest.grid),
            ("intensity percentiles", run.percentiles, tuple(manifest.percentiles)),
        ):
            if mine != theirs:
                raise EvaluationError(
                    f"{dataset.root} was prepared with {name} {theirs}, the run with {mine}; "
                    "prepare the dataset anew with the run's settings"
                )
        found[plane] = tuple(s for s in run.structures_of(plane) if s in manifest.labelled[plane])
        if not found[plane]:
            raise EvaluationError(
                f"{dataset.root} labels {', '.join(manifest.labelled[plane]) or 'nothing'} in {plane}, "
                f"the run predicts {', '.join(run.structures)}: there is nothing to score"
            )
    if split not in SPLITS:
        raise EvaluationError(f"--split={split} is unknown; choose among {', '.join(SPLITS)}")
    with_labels = {plane: names for plane, names in found.items() if _stacks(dataset, plane, split, names)}
    if not with_labels:
        counts = {s: int((dataset.splits == s).sum()) for s in SPLITS}
        raise EvaluationError(
            f"{dataset.root}: no labelled {' or '.join(runs)} stack in --split={split} (subjects per split: {counts})"
        )
    return with_labels


def _stacks(dataset: Dataset, plane: str, split: str, structures: Sequence[str]) -> list[Any]:
    """The stacks of a split in which one of the structures was annotated."""
    columns = [anatomy.STRUCTURES.index(s) for s in structures]
    chosen = dataset.stacks(plane)[dataset.annotated(plane)[:, columns].any(axis=1)]
    chosen = chosen[chosen["phase"].isin(anatomy.PHASES)]  # other frames of a cine hold some of these once more
    return list(chosen[dataset.splits[chosen["subject"].to_numpy(int)] == split].itertuples())


def evaluate(
    runs: Mapping[str, Run], dataset: Dataset, split: str, heart_rate: str | None = None, progress: bool = True
) -> Result:
    """Predicts and scores every labelled stack of a split at ED, mid and ES, in every plane; of each the structures annotated in it.

    runs: the run of each plane (`by_plane`).
    heart_rate: the table column with beats per minute, for cardiac output.
    """
    structures = check(runs, dataset, split)
    if heart_rate is not None and heart_rate not in dataset.table.columns:
        raise EvaluationError(f"--heart_rate={heart_rate}: no such column in the table of {dataset.root}")
    rows: list[dict[str, Any]] = []
    worst: list[tuple[float, tuple[np.ndarray, np.ndarray, np.ndarray, str]]] = []
    hearts: dict[int, dict[str, Heart]] = {}
    stacks = [(plane, stack) for plane in structures for stack in _stacks(dataset, plane, split, structures[plane])]
    for plane, stack in tqdm(stacks, desc=f"score {split}", unit="stack", disable=not progress):
        run, slices = runs[plane], dataset.slices(plane)
        label, placement = dataset.native(plane, stack.Index)
        if label is None:
            raise EvaluationError(f"{dataset.root}: stack {stack.Index} of {plane} is marked labelled but has no label")
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
    # A long-axis plane is one slice: it has an area.
    unit, scale = ("ml", spacing) if plane == "sax" else ("cm2", (spacing[0], spacing[1], 10.0))
    size = {who: clinical.volume_ml(x, structure, scale) for who, x in (("reference", label), ("predicted", predicted))}
    return {
        "structure": structure,
        "dice": score.dice,
        "hd95_mm": score.hd95,
        "hd95_directed_mm": score.hd95_directed,
        "assd_mm": score.assd,
        "missed": score.missed,
        "spurious": score.spurious,
        f"reference_{unit}": size["reference"],
        f"predicted_{unit}": size["predicted"],
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


def summarise(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row per plane, structure and phase, the phases pooled, and the mean over structures: `n_subjects`, `n_valid`,
    `n_missed`, `n_spurious`, and for each metric its mean, `_low` and `_high`."""
    return pd.concat(
        [_summarise(plane, of, seed) for plane, of in scores.groupby("plane", sort=False)], ignore_index=True
    )


def _summarise(plane: Any, scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    phases = [p for p in anatomy.PHASES if (scores["phase"] == p).any()]
    structures = [s for s in anatomy.STRUCTURES if (scores["structure"] == s).any()]
    rows = []
    for structure in (*structures, MEAN) if len(structures) > 1 else structures:
        for phase in (*phases, POOLED):
            chosen = scores if structure == MEAN else scores[scores["structure"] == structure]
            chosen = chosen if phase == POOLED else chosen[chosen["phase"] == phase]
            row: dict[str, Any] = {"plane": plane, "structure": structure, "phase": phase}
            row |= {
                "n_subjects": int(chosen["index"].nunique()),
                "n_valid": int(chosen["dice"].notna().sum()),
                "n_missed": int(chosen["missed"].sum()),
                "n_spurious": int(chosen["spurious"].sum()),
            }
            for metric in METRICS:
                values = list(statistics.per_subject(chosen[metric].to_numpy(), chosen["index"].tolist()).values())
                interval = statistics.bootstrap_mean(values, seed=seed)
                row |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            rows.append(row)
    return pd.DataFrame(rows)


def agree(measures: pd.DataFrame) -> pd.DataFrame:
    """Agreement per clinical measure, over subjects of whom both values are there."""
    return pd.DataFrame(
        [
            {"plane": plane, "measure": name} | dataclasses.asdict(agreement.bland_altman(*_pair(group)))
            for (plane, name), group in measures.groupby(["plane", "measure"], sort=False)
        ]
    )


def _pair(group: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return group["reference"].to_numpy(float), group["predicted"].to_numpy(float)


def write(output: Path, split: str, result: Result, about: dict[str, Any]) -> pd.DataFrame:
    """Writes every file of the module's docstring, each whole or not at all. Returns the summary."""
    output.mkdir(parents=True, exist_ok=True)
    summary, agreed = summarise(result.scores), agree(result.measures)
    tables = {"scores": result.scores, "measures": result.measures, "agreement": agreed, "summary": summary}
    for name, table in tables.items():
        write_atomically(output / f"{name}_{split}.csv", table.to_csv(index=False, float_format="%.6g").encode())
    # JSON has no NaN: a missing number is null.
    rows = [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()}
        for r in summary.to_dict("records")
    ]
    document = about | {"split": split, "conventions": CONVENTIONS, "rows": rows}
    write_atomically(output / f"summary_{split}.json", (json.dumps(document, indent=1) + "\n").encode())
    planes = list(result.scores["plane"].unique())
    for plane in planes:
        of_plane = result.scores[result.scores["plane"] == plane].groupby(["structure", "phase"], sort=False)
        shown = {key: group["dice"].to_numpy() for key, group in of_plane}
        order = sorted(shown, key=lambda k: (anatomy.LABEL_ID[k[0]], anatomy.PHASES.index(k[1])))
        name = f"dice_{split}.png" if len(planes) == 1 else f"dice_{plane}_{split}.png"
        figures.score_strip(output / name, {k: shown[k] for k in order})
    by_measure = result.measures.groupby(["plane", "measure"], sort=False)
    pairs = {_title(plane, name, len(planes) > 1): _pair(group) for (plane, name), group in by_measure}
    pairs = {title: pair for title, pair in pairs.items() if len(agreement.pairs(*pair)[0])}
    if pairs:
        figures.bland_altman(output / f"agreement_{split}.png", pairs)
    if result.worst:
        figures.worst_cases(output / f"worst_{split}.png", result.worst)
    return summary


def _title(plane: Any, measure: Any, several: bool) -> str:
    """Of a clinical measure; with the plane where there are several of them."""
    return clinical.TITLE[measure] + (f", {plane}" if several else "")


def table_text(summary: pd.DataFrame, agreed: pd.DataFrame) -> str:
    """Both tables as they are printed: no subject ids."""

    def interval(row: Any, metric: str, digits: int) -> str:
        mean, low, high = (getattr(row, metric + end) for end in ("", "_low", "_high"))
        return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    heads = "".join(f"{head:24}" for head in ("Dice [95 % CI]", "HD95 mm", "ASSD mm"))
    several, section = summary["plane"].nunique() > 1, None
    lines = [f"{'structure':15}{'phase':8}{heads}{'valid':>6}{'missed':>8}{'spurious':>10}"]
    for row in summary.itertuples():
        if several and row.plane != section:
            section = row.plane
            lines.append(f"-- {section}")
        scores = (interval(row, "dice", 3), interval(row, "hd95_mm", 2), interval(row, "assd_mm", 2))
        cells = "".join(f"{cell:24}" for cell in scores)
        lines.append(f"{row.structure:15}{row.phase:8}{cells}{row.n_valid:6}{row.n_missed:8}{row.n_spurious:10}")
    lines += ["", f"{'measure':34}{'n':>4}{'bias':>9}{'limits of agreement':>24}{'MAE':>9}{'r':>8}"]
    for row in agreed[agreed["n"] > 0].itertuples():
        limits = f"{row.lower:.2f} to {row.upper:.2f}"
        name = _title(row.plane, row.measure, several)
        lines.append(f"{name:34}{row.n:4}{row.bias:9.2f}{limits:>24}{row.mae:9.2f}{row.pearson_r:8.3f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    description, epilog = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        "morphojax.evaluate",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run",
        required=True,
        action="append",
        help="directory of a segmentation run; once more for a run of another plane, for measures that need two planes",
    )
    parser.add_argument("--split", default="test", choices=SPLITS, help="subjects to score (default: test)")
    parser.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the one of the run's config)")
    parser.add_argument("--output", help="folder for the results (default: <first run>/evaluation)")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="by validation, or the last")
    parser.add_argument("--heart_rate", metavar="COLUMN", help="table column in beats per minute, for cardiac output")
    args = parser.parse_args(argv)
    try:
        loaded = [load_run(folder, args.checkpoint) for folder in args.run]
        runs = by_plane(loaded)
        dataset = cohort.open_dataset(**_data(loaded, args.dataset))
        scored = check(runs, dataset, args.split)
        trained = [run for run in loaded if run.dataset_fingerprint == dataset.fingerprint]
        if any(args.split in run.config["data"]["splits"] for run in trained):
            print(f"note: trained on subjects of the {args.split} split: the scores are not of unseen hearts")
        for plane, run in runs.items():
            if plane not in scored:
                print(f"note: {plane} is not scored: no labelled stack in --split={args.split}")
            if skipped := [s for s in run.structures_of(plane) if s not in dataset.manifest.labelled[plane]]:
                print(f"note: not scored in {plane}, because not drawn in this dataset: {', '.join(skipped)}")
        result = evaluate(runs, dataset, args.split, args.heart_rate)
        output = Path(args.output) if args.output else Path(args.run[0]) / "evaluation"
        about = {
            "run": " ".join(args.run),
            "checkpoint": args.checkpoint,
            "dataset_fingerprint": dataset.fingerprint,
            "trained_on": " ".join(run.dataset_fingerprint for run in loaded),
        }
        summary = write(output, args.split, result, about)
    except (RunError, CheckpointError, DatasetError, RecordError, EvaluationError, ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(table_text(summary, agree(result.measures)))
    print(f"\nwritten to {output}")
    return 0


def _data(runs: Sequence[Run], dataset: str | None) -> dict[str, Any]:
    """The dataset of the runs, or the one given, with all their planes."""
    keys = ("dataset", "synthetic_subjects", "synthetic_seed", "synthetic_spacing_mm", "synthetic_size")
    data = {key: runs[0].config["data"][key] for key in keys}
    data |= {"plane": ",".join(plane for run in runs for plane in run.planes)}
    return data if dataset is None else data | {"dataset": dataset}


if __name__ == "__main__":
    sys.exit(main())
