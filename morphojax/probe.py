"""What an image encoder knows of a column of the table: probes of its frozen embeddings, scored on the test subjects.

    python -m morphojax.probe --run=runs/pretrain_sax --label=lv_ef --frames=ED,ES
    python -m morphojax.probe --run=runs/pretrain_sax --export

A linear and a nearest-neighbour probe are fitted to the training subjects, their setting is chosen on the validation subjects
(by cross-validation where these are few), and they are scored on the test subjects, whose values nothing has seen. A class
label gives AUC (each class against the rest) and balanced accuracy, a number gives mean absolute error and Pearson's r, all
with 95 % bootstrap intervals over subjects. The run may be of any task. One made with configs/probe.py, whose encoder was
trained along with its head, needs no --label: its own predictions are scored.

Writes to --output (default: <run>/probe/<label>, with the fraction and seed in the name where --fraction is below 1):
    scores.json       scores and intervals per probe, how many subjects, and what the encoder had seen of the label
    predictions.csv   per probe and test subject (by index): reference, prediction, probabilities of the classes
    roc.png or scatter.png
and with --export to <run>/embeddings:
    embeddings.parquet, and tensors.tsv, metadata.tsv, projector_config.pbtxt for the projector of
    tensorboard --logdir=<run>/embeddings
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.dataset import Dataset
from morphojax.data.records import write_atomically
from morphojax.evaluation import figures, prediction
from morphojax.evaluation.statistics import Interval
from morphojax.train import cohort, embed
from morphojax.train.embed import Embeddings, ImageEncoder
from morphojax.train.probe import Label, caveats
from morphojax.train.run import check_same_images, preprocessing, read_json

NAME = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "mae": "MAE", "r": "r"}


class ProbeError(ValueError):
    """A probe that cannot be made. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Result:
    """subject, target: of the test subjects, codes or values in the unit of the column; predicted: by probe, see `prediction`.

    details: by probe, how it came about; subjects: how many took part in what.
    """

    label: Label
    subject: np.ndarray
    target: np.ndarray
    predicted: Mapping[str, np.ndarray]
    details: Mapping[str, Mapping[str, Any]]
    subjects: Mapping[str, int]


def probe(dataset: Dataset, name: str, embeddings: Embeddings, fraction: float = 1.0, seed: int = 0) -> Result:
    """Fits the probes of `prediction.SETTINGS` and predicts the test subjects.

    fraction: of the training subjects, by hash of id and seed (`cohort.select_subjects`).

    Raises ValueError as `Label.fit` does, and ProbeError where no test subject has the label and an embedding.
    """
    chosen = cohort.select_subjects(dataset, split_names=("train",), subjects=(), fraction=fraction, seed=seed)
    # Fitted to those that have an embedding: the others teach nothing.
    label = Label.fit(dataset, name, np.intersect1d(chosen, embeddings.subject))
    known = _with_label(label, dataset, embeddings)
    part = {split: known[dataset.splits[known] == split] for split in ("val", "test")}
    part["train"] = np.intersect1d(known, chosen)
    x = {split: embeddings.values[np.searchsorted(embeddings.subject, who)] for split, who in part.items()}
    target = label.encode(dataset.table)
    _check_test(label, part["test"])
    predicted, details = {}, {}
    for kind in prediction.SETTINGS:
        fitted = prediction.fit_probe(
            kind, x["train"], target[part["train"]], x["val"], target[part["val"]], len(label.classes)
        )
        answer = fitted.predict(x["test"])
        predicted[kind] = answer if label.classes else label.in_unit(answer)
        details[kind] = {"setting": fitted.setting, "chosen_on": fitted.chosen_on}
    counts = {split: len(part[split]) for split in ("train", "val", "test")}
    counts["left_out"] = int(len(chosen) + (dataset.splits != "train").sum()) - sum(counts.values())
    wanted = label.of_target(target[part["test"]])
    return Result(label, part["test"], wanted, predicted, details, counts)


def score_network(encoder: ImageEncoder, dataset: Dataset) -> Result:
    """What a run of configs/probe.py predicts of the test subjects, with the head that it trained.

    Raises ProbeError where no test subject has the label, and RunError for a damaged run.
    """
    label = Label.from_json(read_json(encoder.run, "label.json"))
    if label.column.name not in dataset.table.columns:
        raise ProbeError(f"the table of {dataset.root} has no column {label.column.name!r}, which the run predicts")
    inputs = encoder.config["input"]
    test = np.flatnonzero(dataset.splits == "test")
    if not len(test):
        raise ProbeError(f"{dataset.root} has no test subjects")
    found = embed.embed(encoder, dataset, subjects=test, frames=inputs["frames"], slices=inputs["slices"])
    known = _with_label(label, dataset, found)
    _check_test(label, known)
    head = encoder.variables["params"]["head"]
    x = found.values[np.searchsorted(found.subject, known)]
    predicted = {"network": label.of_network(x @ np.asarray(head["kernel"]) + np.asarray(head["bias"]))}
    details = {"network": {key: encoder.config[key] for key in ("freeze", "init_from")}}
    counts = {"test": len(known), "left_out": len(test) - len(known)}
    return Result(label, known, label.of_target(label.encode(dataset.table)[known]), predicted, details, counts)


def _with_label(label: Label, dataset: Dataset, embeddings: Embeddings) -> np.ndarray:
    return embeddings.subject[np.isfinite(label.encode(dataset.table)[embeddings.subject])]


def _check_test(label: Label, test: np.ndarray) -> None:
    if not len(test):
        raise ProbeError(f"no test subject has {label.column.name!r} and an image: there is nothing to score")


def scores(result: Result, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Measures with their intervals by probe, and by `constant`, a predictor that knows no image: every class equally likely,
    or the mean of the training subjects."""
    n, label = len(result.target), result.label
    guess = (
        np.full((n, len(label.classes)), 1 / len(label.classes))
        if label.classes
        else np.full(n, label.in_unit(np.zeros(1)))
    )
    found = {kind: prediction.score(result.target, p, seed=seed) for kind, p in result.predicted.items()}
    constant = prediction.score(result.target, guess, seed=seed)
    if label.classes:
        # Of equally likely classes the first would be taken: on average over draws, each is right equally often.
        constant["balanced_accuracy"] = Interval(n, 1 / len(label.classes), float("nan"), float("nan"))
    return found | {"constant": constant}


def write(output: Path, result: Result, found: Mapping[str, Mapping[str, Interval]], about: Mapping[str, Any]) -> None:
    """Writes the files of the module's docstring, each whole or not at all."""
    output.mkdir(parents=True, exist_ok=True)
    column, classes = result.label.column, result.label.classes
    document = {
        **about,
        "label": {"name": column.name, "kind": column.kind, "unit": column.unit, "classes": list(classes)},
        "subjects": dict(result.subjects),
        "interval": "95 % bootstrap over test subjects: BCa for the MAE, else percentiles (within each class for classes)",
        "probes": {
            kind: {**result.details.get(kind, {}), "scores": {name: _number(i) for name, i in intervals.items()}}
            for kind, intervals in found.items()
        },
    }
    write_atomically(output / "scores.json", (json.dumps(document, indent=1) + "\n").encode())
    table = pd.concat([_rows(result, kind) for kind in result.predicted], ignore_index=True)
    write_atomically(output / "predictions.csv", table.to_csv(index=False, float_format="%.6g").encode())
    panels = {kind: (result.target, predicted) for kind, predicted in result.predicted.items()}
    figures.predictions(output / ("roc.png" if classes else "scatter.png"), panels, classes, column.unit)


def _number(interval: Interval) -> dict[str, float | int | None]:
    """JSON has no NaN: what is not defined is null."""
    values = {"value": interval.mean, "low": interval.low, "high": interval.high}
    return {"n": interval.n, **{k: v if np.isfinite(v) else None for k, v in values.items()}}


def _rows(result: Result, kind: str) -> pd.DataFrame:
    predicted, names = result.predicted[kind], np.array(result.label.classes)
    rows: dict[str, Any] = {"probe": kind, "subject": result.subject}
    if not len(names):
        return pd.DataFrame(rows | {"reference": result.target, "predicted": predicted})
    rows |= {"reference": names[result.target], "predicted": names[predicted.argmax(1)]}
    return pd.DataFrame(rows | {f"p_{name}": predicted[:, c] for c, name in enumerate(names)})


def text(found: Mapping[str, Mapping[str, Interval]], unit: str) -> str:
    """The scores as they are printed: a line per probe."""

    def cell(name: str, i: Interval) -> str:
        digits = 3 if name != "mae" else 2
        bounds = "" if np.isnan(i.low) else f" [{i.low:.{digits}f}, {i.high:.{digits}f}]"
        value = "-" if np.isnan(i.mean) else f"{i.mean:.{digits}f}"
        return f"{NAME[name]} {value}{bounds}" + (f" {unit}" if name == "mae" and unit else "")

    return "\n".join(
        f"{kind:10}" + "   ".join(cell(name, i) for name, i in intervals.items()) for kind, intervals in found.items()
    )


def parser() -> argparse.ArgumentParser:
    description, epilog = (__doc__ or "").split("\n\n", 1)
    made = argparse.ArgumentParser(
        "morphojax.probe",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--run", required=True, help="directory of a run, or one of the folders in its checkpoints/")
    made.add_argument("--label", help="column of the table to predict")
    made.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the one of the run's config)")
    made.add_argument("--output", help="folder for the scores (default: <run>/probe/<label>)")
    made.add_argument("--checkpoint", choices=("best", "last"), help="default: best of configs/probe.py, else last")
    made.add_argument("--frames", default="ED", help="frames embedded, side by side: ED (default), or ED,ES")
    made.add_argument("--slices", type=int, default=8, help="evenly spaced slices per frame (default: 8)")
    made.add_argument("--fraction", type=float, default=1.0, help="share of the training subjects (default: 1)")
    made.add_argument("--seed", type=int, default=0, help="of the choice of that share, and of the bootstrap")
    made.add_argument("--export", action="store_true", help="write the embeddings of all subjects")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return _main(args)
    except (ValueError, OSError) as error:  # every error of the package that a user can mend is a ValueError
        print(f"probe: {error}", file=sys.stderr)
        return 2


def _main(args: argparse.Namespace) -> int:
    encoder = _load(args.run, args.checkpoint)
    network = encoder.config["task"] == "probe"
    trained = encoder.config["label"] if network else None
    if network and args.label not in (None, trained):
        raise ProbeError(
            f"--label={args.label}: {args.run} was trained to predict {trained!r}; probe the run it came from"
        )
    if not (network or args.label or args.export):
        raise ProbeError("give --label=COLUMN to probe, --export to write the embeddings, or both")
    dataset = _open(encoder, args.dataset)
    frames = tuple(f.strip() for f in args.frames.split(","))
    if len(set(frames)) < len(frames) or set(frames) - set(anatomy.PHASES):
        raise ProbeError(f"--frames={args.frames}: give different ones of {', '.join(anatomy.PHASES)}")
    result = score_network(encoder, dataset) if network else None
    if args.export or result is None:
        embeddings = embed.embed_frames(encoder, dataset, frames, slices=args.slices)
        if args.label and not network:
            result = probe(dataset, args.label, embeddings, args.fraction, args.seed)
        if args.export:
            columns = [result.label.column.name] if result else []
            embed.export(encoder.run / "embeddings", embeddings, dataset, columns)
            print(f"embeddings of {len(embeddings.subject)} subjects written to {encoder.run / 'embeddings'}")
    if result is not None:
        _report(args, encoder, dataset, frames, result)
    return 0


def _load(run: str, which: str | None) -> ImageEncoder:
    encoder = embed.load_encoder(run, which or "last")
    # A fine-tuned run is judged by its best checkpoint; of pretraining, the lowest loss is not the best encoder.
    return embed.load_encoder(run, "best") if which is None and encoder.config["task"] == "probe" else encoder


def _open(encoder: ImageEncoder, path: str | None) -> Dataset:
    data: dict[str, Any] = dict(encoder.config["data"]) | ({} if path is None else {"dataset": path})
    dataset = cohort.open_dataset(
        **{k: v for k, v in data.items() if k in ("dataset", "plane") or k.startswith("synthetic_")}
    )
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
    found = scores(result, args.seed)
    about: dict[str, Any] = {
        "run": str(args.run),
        "checkpoint": encoder.checkpoint.name,
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
    write(output, result, found, about)
    print(f"{column.name}: {', '.join(f'{n} {k}' for k, n in result.subjects.items() if k != 'left_out')} subjects")
    print(text(found, column.unit))
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
