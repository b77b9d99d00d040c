"""Scores a segmentation run on a split of a prepared dataset, on the native grids.

    python -m morphojax.evaluate --run=runs/segment_sax --split=test

Writes to --output (default: <run>/evaluation):
    scores_<split>.csv      per subject, plane, phase and structure: Dice, surface Dice, HD95, ASSD,
                            and the sizes of reference and prediction
    positions_<split>.csv   per subject, phase and structure of a short axis: Dice in the basal,
                            middle and apical third of the slices with the left ventricle
    measures_<split>.csv    per subject and plane: clinical measures of reference and prediction;
                            the biplane volume of the left atrium where both long-axis planes are
                            scored
    agreement_<split>.csv   per measure: Bland-Altman bias and limits, mean absolute error,
                            Pearson's r
    summary_<split>.csv     per plane, structure and phase: mean and 95 % bootstrap interval over
                            subjects; without ids
    summary_<split>.json    the same, with the run, checkpoint and weights
    cases_<split>.npz       per subject and plane: the middle slice of the left ventricle at ED,
                            with reference and prediction, for the pictures of a study's report
    dice_<split>.png (dice_<plane>_<split>.png with several planes), agreement_<split>.png,
    worst_<split>.png       figures, in which a subject appears as its index

A structure is scored where the run predicts it and it is annotated in that stack.
Conventions: evaluation/overlap.py, evaluation/positions.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphojax import anatomy
from morphojax.data.store.dataset import DatasetError
from morphojax.data.store.records import RecordError, write_atomically
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import agreement, figures, overlap, summary
from morphojax.inference import cases
from morphojax.inference.flags import add_checkpoint, add_largest_component, make_parser
from morphojax.inference.scoring import Result, ScoringError, by_plane, check, score
from morphojax.inference.segmenter import load_run
from morphojax.tasks import cohort
from morphojax.train.checkpoint import CheckpointError
from morphojax.train.run import RunError


def write(output: Path, split: str, result: Result, about: dict[str, Any]) -> str:
    """Writes the files of the module's docstring; each complete or absent. Returns text to print.

    about: of the run and the dataset, for the summary.
    """
    output.mkdir(parents=True, exist_ok=True)
    summarised, agreed = summary.summarise(result.scores), summary.agree(result.measures)
    per_subject = {"scores": result.scores, "positions": result.positions, "measures": result.measures}
    tables = per_subject | {"agreement": agreed, "summary": summarised}
    for name, table in tables.items():
        write_atomically(output / f"{name}_{split}.csv", table.to_csv(index=False, float_format="%.6g").encode())
    # JSON has no NaN: a missing number is null.
    rows = [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()}
        for r in summarised.to_dict("records")
    ]
    document = about | {"split": split, "conventions": summary.conventions(result.tolerance_mm), "rows": rows}
    write_atomically(output / f"summary_{split}.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(output / f"cases_{split}.npz", cases.encode(result.cases))
    _draw(output, split, result)
    return summary.table_text(summarised, agreed)


def _draw(output: Path, split: str, result: Result) -> None:
    planes = list(result.scores["plane"].unique())
    for plane in planes:
        groups = result.scores[result.scores["plane"] == plane].groupby(["structure", "phase"], sort=False)
        dice = {key: group["dice"].to_numpy() for key, group in groups}
        order = sorted(dice, key=lambda k: (anatomy.LABEL_ID[k[0]], anatomy.PHASES.index(k[1])))
        name = f"dice_{split}.png" if len(planes) == 1 else f"dice_{plane}_{split}.png"
        figures.score_strip(output / name, {k: dice[k] for k in order})
    by_measure = result.measures.groupby(["plane", "measure"], sort=False)
    pairs = {summary.title(plane, name, len(planes) > 1): summary.pair(group) for (plane, name), group in by_measure}
    pairs = {title: pair for title, pair in pairs.items() if len(agreement.pairs(*pair)[0])}
    if pairs:
        figures.bland_altman(output / f"agreement_{split}.png", pairs)
    if result.worst:
        figures.worst_cases(output / f"worst_{split}.png", result.worst)


def parser() -> argparse.ArgumentParser:
    made = make_parser("morphojax.evaluate", __doc__)
    made.add_argument(
        "--run",
        required=True,
        action="append",
        help="directory of a segmentation run; repeat it with a run of another plane for measures that need two planes",
    )
    made.add_argument("--split", default="test", choices=SPLITS, help="subjects to score (default: test)")
    made.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the dataset of the run's config)")
    made.add_argument("--output", help="folder for the results (default: <first run>/evaluation)")
    add_checkpoint(made)
    add_largest_component(made)
    made.add_argument("--heart_rate", metavar="COLUMN", help="table column in beats per minute, for cardiac output")
    made.add_argument(
        "--tolerance_mm",
        type=float,
        default=overlap.TOLERANCE_MM,
        metavar="MM",
        help="distance between surfaces that the surface Dice accepts (default: %(default)g)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        _evaluate(args)
    except (RunError, CheckpointError, DatasetError, RecordError, ScoringError, ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def _evaluate(args: argparse.Namespace) -> None:
    loaded = [
        load_run(folder, args.checkpoint, args.weights, largest_component=args.largest_component) for folder in args.run
    ]
    runs = by_plane(loaded)
    planes = ",".join(plane for run in loaded for plane in run.planes)
    dataset = cohort.open_configured({**loaded[0].config["data"], "plane": planes}, args.dataset)
    scored = check(runs, dataset, args.split)
    trained = [run for run in loaded if run.dataset_fingerprint == dataset.fingerprint]
    if any(args.split in run.config["data"]["splits"] for run in trained):
        print(f"note: trained on subjects of the {args.split} split: these are not scores of unseen hearts")
    for plane, run in runs.items():
        if plane not in scored:
            print(f"note: {plane} is not scored: no labelled stack in --split={args.split}")
        if skipped := [s for s in run.structures_of(plane) if s not in dataset.manifest.labelled[plane]]:
            print(f"note: not scored in {plane}, because not annotated in this dataset: {', '.join(skipped)}")
    result = score(runs, dataset, args.split, args.heart_rate, tolerance_mm=args.tolerance_mm)
    output = Path(args.output) if args.output else Path(args.run[0]) / "evaluation"
    about = {
        "run": " ".join(args.run),
        "checkpoint": args.checkpoint,
        "weights": args.weights,
        "largest_component": args.largest_component,
        "dataset_fingerprint": dataset.fingerprint,
        "trained_on": " ".join(run.dataset_fingerprint for run in loaded),
    }
    print(write(output, args.split, result, about))
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
