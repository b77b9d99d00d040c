"""Scores a segmentation run on a split of a prepared dataset, on the native grids.

    python -m morphojax.evaluate --run=runs/segment_sax --split=test

Writes to --output (default: <run>/evaluation):
    scores_<split>.csv      per subject, phase and structure: Dice, HD95, ASSD, size by reference and by prediction
    measures_<split>.csv    per subject: clinical measures by reference and by prediction
    agreement_<split>.csv   Bland-Altman bias and limits, mean absolute error and Pearson's r per measure
    summary_<split>.{csv,json}   mean and 95 % bootstrap interval over subjects per structure and phase; no subject ids
    dice_<split>.png  agreement_<split>.png  worst_<split>.png   figures; a subject appears as its index

Only structures that the run predicts and the dataset's annotators drew are scored. Conventions: evaluation/overlap.py.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
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
class Result:
    """scores, measures: per subject (with ids); worst: tiles for `figures.worst_cases` (without)."""

    scores: pd.DataFrame
    measures: pd.DataFrame
    worst: list[tuple[np.ndarray, np.ndarray, np.ndarray, str]]


def check(run: Run, dataset: Dataset, split: str) -> tuple[str, ...]:
    """The structures to score. Raises EvaluationError where the dataset does not fit the run, or the split is empty."""
    manifest = dataset.manifest
    if run.plane not in manifest.planes:
        raise EvaluationError(f"{dataset.root} holds no plane {run.plane!r}, which the run was trained on; prepare it")
    for name, mine, theirs in (
        ("grid", run.grid, manifest.grid),
        ("intensity percentiles", run.percentiles, tuple(manifest.percentiles)),
    ):
        if mine != theirs:
            raise EvaluationError(
                f"{dataset.root} was prepared with {name} {theirs}, the run with {mine}; "
                "prepare the dataset anew with the run's settings"
            )
    structures = tuple(s for s in run.structures if s in manifest.labelled[run.plane])
    if not structures:
        raise EvaluationError(
            f"{dataset.root} labels {', '.join(manifest.labelled[run.plane]) or 'nothing'} in {run.plane}, "
            f"the run predicts {', '.join(run.structures)}: there is nothing to score"
        )
    if split not in SPLITS:
        raise EvaluationError(f"--split={split} is unknown; choose among {', '.join(SPLITS)}")
    if not _stacks(run, dataset, split):
        counts = {s: int((dataset.splits == s).sum()) for s in SPLITS}
        raise EvaluationError(
            f"{dataset.root}: no labelled {run.plane} stack in --split={split} (subjects per split: {counts})"
        )
    return structures


def _stacks(run: Run, dataset: Dataset, split: str) -> list[Any]:
    chosen = dataset.stacks(run.plane)
    held = chosen["labelled"].to_numpy(bool) & (dataset.splits[chosen["subject"].to_numpy(int)] == split)
    return list(chosen[held].itertuples())


def evaluate(run: Run, dataset: Dataset, split: str, heart_rate: str | None = None, progress: bool = True) -> Result:
    """Predicts and scores every labelled stack of a split.

    heart_rate: the table column with beats per minute, for cardiac output.
    """
    structures = check(run, dataset, split)
    if heart_rate is not None and heart_rate not in dataset.table.columns:
        raise EvaluationError(f"--heart_rate={heart_rate}: no such column in the table of {dataset.root}")
    drawn = np.zeros(256, bool)
    drawn[[anatomy.LABEL_ID[s] for s in structures]] = True
    slices = dataset.slices(run.plane)
    rows: list[dict[str, Any]] = []
    worst: list[tuple[float, tuple[np.ndarray, np.ndarray, np.ndarray, str]]] = []
    by_phase: dict[int, dict[str, tuple[clinical.Stack, clinical.Stack]]] = {}
    for stack in tqdm(_stacks(run, dataset, split), desc=f"score {split}", unit="stack", disable=not progress):
        label, placement = dataset.native(run.plane, stack.Index)
        if label is None:
            raise EvaluationError(
                f"{dataset.root}: stack {stack.Index} of {run.plane} is marked labelled but has no label"
            )
        records = [slices[i] for i in range(stack.first, stack.first + stack.slices)]
        on_grid = run.predict_grid(np.stack([r["image"] for r in records]))
        predicted = run.labels(run.to_native(on_grid, placement))
        spacing = placement.native_spacing
        by_phase.setdefault(stack.subject, {})[stack.phase] = ((label, spacing), (predicted, spacing))
        who = {"subject": dataset.subjects[stack.subject], "index": stack.subject, "phase": stack.phase}
        found = {
            s: overlap.score(label == anatomy.LABEL_ID[s], predicted == anatomy.LABEL_ID[s], spacing)
            for s in structures
        }
        rows += [who | _row(run.plane, s, score, label, predicted, spacing) for s, score in found.items()]
        counted = {s: score.dice for s, score in found.items() if np.isfinite(score.dice)}
        lowest = min(counted, key=counted.__getitem__, default=None)
        if lowest is not None and counted[lowest] < 1:
            title = f"subject {stack.subject} {stack.phase}, {anatomy.LABEL_NAME[lowest]} Dice {counted[lowest]:.2f}"
            worst.append((counted[lowest], _worst_slice(records, run.labels(on_grid), drawn, title)))
            worst = sorted(worst, key=lambda case: case[0])[:WORST]
    measures = [
        {"subject": dataset.subjects[i], "index": i, "measure": name, "reference": reference, "predicted": predicted}
        for i, stacks in by_phase.items()
        for name, reference, predicted in _measures(run.plane, stacks, structures, _rate(dataset, i, heart_rate))
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
    records: Sequence[dict[str, np.ndarray]], predicted: np.ndarray, drawn: np.ndarray, title: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """The slice of a stack, on the grid, on which label and prediction differ most; only structures that were drawn."""
    label = np.stack([r["label"] for r in records])
    label, predicted = np.where(drawn[label], label, 0), np.where(drawn[predicted], predicted, 0)
    z = int((label != predicted).sum((1, 2)).argmax())
    return records[z]["image"], label[z], predicted[z], f"{title}\nslice {z}"


def _rate(dataset: Dataset, subject: int, column: str | None) -> float:
    return float("nan") if column is None else float(pd.to_numeric(dataset.table[column], errors="coerce")[subject])


def _measures(
    plane: str, stacks: dict[str, tuple[clinical.Stack, clinical.Stack]], structures: Sequence[str], heart_rate: float
) -> list[tuple[str, float, float]]:
    def of(which: int) -> dict[str, float]:
        ed, es = (stacks[phase][which] if phase in stacks else None for phase in ("ED", "ES"))
        return clinical.measures(plane, ed, es, structures, heart_rate)

    reference, predicted = of(0), of(1)
    return [(name, reference[name], predicted[name]) for name in reference]


def summarise(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row per structure and phase, the phases pooled, and the mean over structures: `n_subjects`, `n_valid`,
    `n_missed`, `n_spurious`, and for each metric its mean, `_low` and `_high`."""
    phases = [p for p in anatomy.PHASES if (scores["phase"] == p).any()]
    structures = [s for s in anatomy.STRUCTURES if (scores["structure"] == s).any()]
    rows = []
    for structure in (*structures, MEAN) if len(structures) > 1 else structures:
        for phase in (*phases, POOLED):
            chosen = scores if structure == MEAN else scores[scores["structure"] == structure]
            chosen = chosen if phase == POOLED else chosen[chosen["phase"] == phase]
            row: dict[str, Any] = {"structure": structure, "phase": phase}
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
            {"measure": name} | dataclasses.asdict(agreement.bland_altman(*_pair(group)))
            for name, group in measures.groupby("measure", sort=False)
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
    shown = {
        (structure, phase): group["dice"].to_numpy()
        for (structure, phase), group in result.scores.groupby(["structure", "phase"], sort=False)
    }
    order = sorted(shown, key=lambda k: (anatomy.LABEL_ID[k[0]], anatomy.PHASES.index(k[1])))
    figures.score_strip(output / f"dice_{split}.png", {k: shown[k] for k in order})
    pairs = {clinical.TITLE[str(name)]: _pair(group) for name, group in result.measures.groupby("measure", sort=False)}
    pairs = {title: pair for title, pair in pairs.items() if len(agreement.pairs(*pair)[0])}
    if pairs:
        figures.bland_altman(output / f"agreement_{split}.png", pairs)
    if result.worst:
        figures.worst_cases(output / f"worst_{split}.png", result.worst)
    return summary


def table_text(summary: pd.DataFrame, agreed: pd.DataFrame) -> str:
    """Both tables as they are printed: no subject ids."""

    def interval(row: Any, metric: str, digits: int) -> str:
        mean, low, high = (getattr(row, metric + end) for end in ("", "_low", "_high"))
        return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    heads = "".join(f"{head:24}" for head in ("Dice [95 % CI]", "HD95 mm", "ASSD mm"))
    lines = [f"{'structure':15}{'phase':8}{heads}{'valid':>6}{'missed':>8}{'spurious':>10}"]
    for row in summary.itertuples():
        scores = (interval(row, "dice", 3), interval(row, "hd95_mm", 2), interval(row, "assd_mm", 2))
        cells = "".join(f"{cell:24}" for cell in scores)
        lines.append(f"{row.structure:15}{row.phase:8}{cells}{row.n_valid:6}{row.n_missed:8}{row.n_spurious:10}")
    lines += ["", f"{'measure':26}{'n':>4}{'bias':>9}{'limits of agreement':>24}{'MAE':>9}{'r':>8}"]
    for row in agreed[agreed["n"] > 0].itertuples():
        limits = f"{row.lower:.2f} to {row.upper:.2f}"
        name = clinical.TITLE[str(row.measure)]
        lines.append(f"{name:26}{row.n:4}{row.bias:9.2f}{limits:>24}{row.mae:9.2f}{row.pearson_r:8.3f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    description, epilog = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        "morphojax.evaluate",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, help="directory of a segmentation run")
    parser.add_argument("--split", default="test", choices=SPLITS, help="subjects to score (default: test)")
    parser.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the one of the run's config)")
    parser.add_argument("--output", help="folder for the results (default: <run>/evaluation)")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="by validation, or the last")
    parser.add_argument("--heart_rate", metavar="COLUMN", help="table column in beats per minute, for cardiac output")
    args = parser.parse_args(argv)
    try:
        run = load_run(args.run, args.checkpoint)
        dataset = cohort.open_dataset(**_data(run, args.dataset))
        check(run, dataset, args.split)
        if run.dataset_fingerprint == dataset.fingerprint and args.split in run.config["data"]["splits"]:
            print(
                f"note: the run was trained on subjects of the {args.split} split: its scores are not of unseen hearts"
            )
        skipped = [s for s in run.structures if s not in dataset.manifest.labelled[run.plane]]
        if skipped:
            print(f"note: not scored, because not drawn in this dataset: {', '.join(skipped)}")
        result = evaluate(run, dataset, args.split, args.heart_rate)
        output = Path(args.output) if args.output else Path(args.run) / "evaluation"
        about = {
            "run": str(args.run),
            "checkpoint": args.checkpoint,
            "dataset_fingerprint": dataset.fingerprint,
            "trained_on": run.dataset_fingerprint,
        }
        summary = write(output, args.split, result, about)
    except (RunError, CheckpointError, DatasetError, RecordError, EvaluationError, ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(table_text(summary, agree(result.measures)))
    print(f"\nwritten to {output}")
    return 0


def _data(run: Run, dataset: str | None) -> dict[str, Any]:
    keys = ("dataset", "plane", "synthetic_subjects", "synthetic_seed", "synthetic_spacing_mm", "synthetic_size")
    data = {key: run.config["data"][key] for key in keys}
    return data if dataset is None else data | {"dataset": dataset}


if __name__ == "__main__":
    sys.exit(main())
