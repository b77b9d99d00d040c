"""Probes fitted to embeddings of training subjects, and their scores on test subjects."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from morphojax.data.errors import NamedError
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import ENCODER_SHAPE
from morphojax.data.tables.schema import TableError
from morphojax.evaluation import prediction
from morphojax.evaluation.statistics import Interval
from morphojax.inference.embed import Embeddings, ImageEncoder, embed
from morphojax.tasks import cohort
from morphojax.tasks.probe.label import Label
from morphojax.train.run import RunError, read_json


class ProbeError(NamedError):
    """A probe that cannot be fitted or scored. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Predictions for the test subjects.

    target:    class codes, or values in the unit of the column.
    predicted: by probe: probabilities [N, classes], or values [N] (see `evaluation.prediction`).
    details:   by probe, how it was fitted.
    subjects:  number of subjects by split, and of those left out.
    """

    label: Label
    subject: np.ndarray
    target: np.ndarray
    predicted: Mapping[str, np.ndarray]
    details: Mapping[str, Mapping[str, Any]]
    subjects: Mapping[str, int]


def probe(dataset: Dataset, name: str, embeddings: Embeddings, fraction: float = 1.0, seed: int = 0) -> Result:
    """Fits the probes of `prediction.SETTINGS` to training subjects; predicts the test subjects.

    Args:
        name: of the column to predict.
        fraction: of the training subjects, chosen by hash of id and seed
            (`cohort.select_subjects`).

    Raises:
        ValueError: as `Label.fit`.
        ProbeError: no test subject has both the label and an embedding.
    """
    chosen = cohort.select_subjects(dataset, split_names=("train",), subjects=(), fraction=fraction, seed=seed)
    # Standardisation and classes come from the subjects that the probes are fitted to: those with
    # an embedding.
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
        output = fitted.predict(x["test"])
        predicted[kind] = output if label.classes else label.in_unit(output)
        details[kind] = {"setting": fitted.setting, "chosen_on": fitted.chosen_on}
    counts = {split: len(part[split]) for split in ("train", "val", "test")}
    counts["left_out"] = int(len(chosen) + (dataset.splits != "train").sum()) - sum(counts.values())
    reference = label.of_target(target[part["test"]])
    return Result(label, part["test"], reference, predicted, details, counts)


def score_network(encoder: ImageEncoder, dataset: Dataset) -> Result:
    """Predictions of a run of configs/probe.py, by its own trained head.

    Raises ProbeError where no test subject has the label, and RunError for a damaged run.
    """
    try:
        label = Label.from_json(read_json(encoder.run, "label.json", {"table": ENCODER_SHAPE, "classes": [str]}))
    except TableError as error:
        path = encoder.run / "label.json"
        raise RunError(f"{path}: not as a run writes it ({error}); restore the file, or train again") from error
    if label.column.name not in dataset.table.columns:
        raise ProbeError(f"the table of {dataset.root} has no column {label.column.name!r}, which the run predicts")
    inputs = encoder.config["input"]
    test = np.flatnonzero(dataset.splits == "test")
    if not len(test):
        raise ProbeError(f"{dataset.root} has no test subjects")
    embeddings = embed(encoder, dataset, subjects=test, frames=inputs["frames"], slices=inputs["slices"])
    known = _with_label(label, dataset, embeddings)
    _check_test(label, known)
    head = encoder.variables["params"]["head"]
    x = embeddings.values[np.searchsorted(embeddings.subject, known)]
    predicted = {"network": label.of_network(x @ np.asarray(head["kernel"]) + np.asarray(head["bias"]))}
    details = {"network": {key: encoder.config[key] for key in ("freeze", "init_from")}}
    counts = {"test": len(known), "left_out": len(test) - len(known)}
    return Result(label, known, label.of_target(label.encode(dataset.table)[known]), predicted, details, counts)


def _with_label(label: Label, dataset: Dataset, embeddings: Embeddings) -> np.ndarray:
    """Indices of the subjects that have both an embedding and a label."""
    return embeddings.subject[np.isfinite(label.encode(dataset.table)[embeddings.subject])]


def _check_test(label: Label, test: np.ndarray) -> None:
    if not len(test):
        raise ProbeError(f"no test subject has {label.column.name!r} and an image: there is nothing to score")


def scores(result: Result, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Scores with intervals, by probe.

    The probe `constant` ignores the image: it predicts equal probabilities, or the mean of the
        training subjects.
    """
    n, label = len(result.target), result.label
    guess = (
        np.full((n, len(label.classes)), 1 / len(label.classes))
        if label.classes
        else np.full(n, label.in_unit(np.zeros(1)))
    )
    by_probe = {kind: prediction.score(result.target, p, seed=seed) for kind, p in result.predicted.items()}
    constant = prediction.score(result.target, guess, seed=seed)
    if label.classes:
        # argmax would always take the first class; a random class is right once in as many cases as
        # there are classes.
        constant["balanced_accuracy"] = Interval(n, 1 / len(label.classes), float("nan"), float("nan"))
    return by_probe | {"constant": constant}
