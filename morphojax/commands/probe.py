"""Fits and scores probes of a run's image encoder."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.commands.output import writable
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.records import write_atomically
from morphojax.evaluation import figures
from morphojax.evaluation.statistics import Interval
from morphojax.exit_codes import COMPLETE
from morphojax.inference.embed import ImageEncoder, embed_frames, export, load_encoder
from morphojax.inference.probing import ProbeError, Result, probe, score_network, scores
from morphojax.tasks import cohort
from morphojax.train.lineage import caveats
from morphojax.train.run import check_same_images, preprocessing

NAME = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "mae": "MAE", "r": "r"}


def run(args: argparse.Namespace) -> int:
    encoder = _load(args.run, args.checkpoint, args.weights)
    network = encoder.config["task"] == "probe"
    trained = encoder.config["label"] if network else None
    if network and args.label not in (None, trained):
        raise ProbeError(
            f"--label={args.label}: {args.run} was trained to predict {trained!r}; probe the run that it started from"
        )
    if not (network or args.label or args.export):
        raise ProbeError("give --label=COLUMN to probe, --export to write the embeddings, or both")
    dataset = _open(encoder, args.dataset)
    frames = tuple(f.strip() for f in args.frames.split(","))
    if len(set(frames)) < len(frames) or set(frames) - set(anatomy.PHASES):
        raise ProbeError(f"--frames={args.frames}: name each frame once, among {', '.join(anatomy.PHASES)}")
    writable(Path(args.output) if args.output else encoder.run)
    result = score_network(encoder, dataset) if network else None
    if args.export or result is None:
        embeddings = embed_frames(encoder, dataset, frames, slices=args.slices)
        if args.label and not network:
            result = probe(dataset, args.label, embeddings, args.fraction, args.seed)
        if args.export:
            columns = [result.label.column.name] if result else []
            export(encoder.run / "embeddings", embeddings, dataset, columns)
            print(f"embeddings of {len(embeddings.subject)} subjects written to {encoder.run / 'embeddings'}")
    if result is not None:
        _report(args, encoder, dataset, frames, result)
    return COMPLETE


def _load(run: str, which: str | None, weights: str) -> ImageEncoder:
    encoder = load_encoder(run, which or "last", weights)
    # The best checkpoint of a fine-tuned run is the best by its scores. In pretraining the lowest
    # loss is not the best encoder.
    return load_encoder(run, "best", weights) if which is None and encoder.config["task"] == "probe" else encoder


def _open(encoder: ImageEncoder, path: str | None) -> Dataset:
    dataset = cohort.open_configured(encoder.config["data"], path)
    check_same_images(preprocessing(dataset, encoder.planes, encoder.images["channels"], ()), encoder.run)
    return dataset


def _report(
    args: argparse.Namespace, encoder: ImageEncoder, dataset: Dataset, frames: tuple[str, ...], result: Result
) -> None:
    column, notes = result.label.column, caveats(encoder.run, result.label.column, dataset)
    for note in notes:
        print(f"note: {note}")
    if result.subjects["left_out"]:
        print(f"note: {result.subjects['left_out']} subjects left out: without {column.name}, or without the frames")
    by_probe = scores(result, args.seed)
    about: dict[str, Any] = {
        "run": str(args.run),
        "checkpoint": encoder.checkpoint.name,
        "weights": args.weights,
        "dataset_fingerprint": dataset.fingerprint,
        "trained_on": encoder.images["dataset_fingerprint"],
        "notes": notes,
        "seed": args.seed,
    }
    if "network" not in result.predicted:
        about |= {"frames": list(frames), "slices": args.slices, "fraction": args.fraction}
    folder = re.sub(r"[^\w.+-]+", "_", column.name)
    if args.fraction < 1:
        folder += f"_fraction{args.fraction:g}_seed{args.seed}"
    output = Path(args.output) if args.output else encoder.run / "probe" / folder
    write(output, result, by_probe, about)
    print(f"{column.name}: {', '.join(f'{n} {k}' for k, n in result.subjects.items() if k != 'left_out')} subjects")
    print(text(by_probe, column.unit))
    print(f"\nwritten to {output}")


def write(
    output: Path, result: Result, by_probe: Mapping[str, Mapping[str, Interval]], about: Mapping[str, Any]
) -> None:
    """Writes the files that `morphojax probe --help` names; each file is complete or absent.

    by_probe: of `probing.scores`. about: of the run and the dataset.
    """
    output.mkdir(parents=True, exist_ok=True)
    column, classes = result.label.column, result.label.classes
    document = {
        **about,
        "label": {"name": column.name, "kind": column.kind, "unit": column.unit, "classes": list(classes)},
        "subjects": dict(result.subjects),
        "interval": "95 % bootstrap over test subjects: BCa for the MAE, else percentiles (within each class for classes)",
        "probes": {
            kind: {**result.details.get(kind, {}), "scores": {name: _number(i) for name, i in intervals.items()}}
            for kind, intervals in by_probe.items()
        },
    }
    write_atomically(output / "scores.json", (json.dumps(document, indent=1) + "\n").encode())
    table = pd.concat([_rows(result, kind) for kind in result.predicted], ignore_index=True)
    write_atomically(output / "predictions.csv", table.to_csv(index=False, float_format="%.6g").encode())
    panels = {kind: (result.target, predicted) for kind, predicted in result.predicted.items()}
    figures.predictions(output / ("roc.png" if classes else "scatter.png"), panels, classes, column.unit)


def _number(interval: Interval) -> dict[str, float | int | None]:
    """An interval as JSON, which has no NaN: undefined numbers are null."""
    values = {"value": interval.mean, "low": interval.low, "high": interval.high}
    return {"n": interval.n, **{k: v if np.isfinite(v) else None for k, v in values.items()}}


def _rows(result: Result, kind: str) -> pd.DataFrame:
    """The rows of predictions.csv for one probe."""
    predicted, names = result.predicted[kind], np.array(result.label.classes)
    rows: dict[str, Any] = {"probe": kind, "subject": result.subject}
    if not len(names):
        return pd.DataFrame(rows | {"reference": result.target, "predicted": predicted})
    rows |= {"reference": names[result.target], "predicted": names[predicted.argmax(1)]}
    return pd.DataFrame(rows | {f"p_{name}": predicted[:, c] for c, name in enumerate(names)})


def text(by_probe: Mapping[str, Mapping[str, Interval]], unit: str) -> str:
    """The scores to print: a line per probe."""

    def cell(name: str, i: Interval) -> str:
        digits = 3 if name != "mae" else 2
        bounds = "" if np.isnan(i.low) else f" [{i.low:.{digits}f}, {i.high:.{digits}f}]"
        value = "-" if np.isnan(i.mean) else f"{i.mean:.{digits}f}"
        return f"{NAME[name]} {value}{bounds}" + (f" {unit}" if name == "mae" and unit else "")

    return "\n".join(
        f"{kind:10}" + "   ".join(cell(name, i) for name, i in intervals.items())
        for kind, intervals in by_probe.items()
    )
