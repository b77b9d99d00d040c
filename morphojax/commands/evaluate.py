"""Scores runs, and writes tables, figures and a report."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from morphojax import anatomy
from morphojax.commands import report
from morphojax.commands.output import writable
from morphojax.data.store.records import write_atomically
from morphojax.evaluation import agreement, figures, overlap, summary
from morphojax.exit_codes import COMPLETE
from morphojax.inference import cases
from morphojax.inference.scoring import Result, by_plane, check, score
from morphojax.inference.segmenter import load_run
from morphojax.reports import evaluated
from morphojax.tasks import cohort
from morphojax.train.run import environment


def run(args: argparse.Namespace) -> int:
    loaded = [
        load_run(folder, args.checkpoint, args.weights, largest_component=args.largest_component) for folder in args.run
    ]
    described = [evaluated.read_run(Path(folder)) for folder in args.run]  # an error comes before the work
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
    overlap.check_tolerance(args.tolerance_mm)
    output = writable(Path(args.output) if args.output else Path(args.run[0]) / "evaluation")
    result = score(runs, dataset, args.split, args.heart_rate, tolerance_mm=args.tolerance_mm)
    about = {
        "run": " ".join(args.run),
        "runs": args.run,
        "command": _command(args),
        "environment": environment(),
        "checkpoint": args.checkpoint,
        "weights": args.weights,
        "largest_component": args.largest_component,
        "dataset_fingerprint": dataset.fingerprint,
        "trained_on": " ".join(run.dataset_fingerprint for run in loaded),
    }
    print(write(output, args.split, result, about))
    page = report.of_one(evaluated.read(output, args.split, described))
    write_atomically(output / f"report_{args.split}.html", page.encode())
    print(f"\nwritten to {output}")
    return COMPLETE


def _command(args: argparse.Namespace) -> str:
    """The command line with every flag, so that later defaults do not change it."""
    flags = [f"--run={folder}" for folder in args.run]
    for name, value in vars(args).items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif name != "run" and value is not None:
            flags.append(f"--{name}={value}")
    return shlex.join(["morphojax", "evaluate", *flags])


def write(output: Path, split: str, result: Result, about: dict[str, Any]) -> str:
    """Writes the tables and figures of `morphojax evaluate --help`; each complete or absent.

    about: of the run and the dataset, for the summary. Returns text to print.
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
