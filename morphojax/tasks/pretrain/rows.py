"""The table rows of a pretraining: columns selected and encoded by statistics of the training rows,
and the controls.
"""

import dataclasses
from typing import Any

import numpy as np

from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import IMPUTATIONS, TableEncoder
from morphojax.data.tables.schema import Schema
from morphojax.tasks.common import Subjects
from morphojax.train import devices

CONTROLS = ("none", "shuffled", "noise")


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of the N subjects of a dataset: values float32 [N,F], missing bool [N,F].

    label: int32 [N], a code of `classes`, or -1 where unknown.
    """

    encoder: TableEncoder | None  # None: the run uses no table
    values: np.ndarray
    missing: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]

    @property
    def schema(self) -> Schema:
        return self.encoder.schema if self.encoder else Schema(())

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self.encoder.cardinalities if self.encoder else ()

    def with_rows(self, subjects: Subjects) -> Subjects:
        """Those that have a table row. The number of training subjects left out is printed."""
        kept = subjects.restrict(np.asarray(~self.missing.all(axis=1)))
        if left_out := len(subjects.train) - len(kept.train):
            devices.say(f"{left_out} of {len(subjects.train)} subjects have no table row: left out")
        return kept

    def constants(self, train: np.ndarray) -> dict[str, np.ndarray]:
        """What a train step reads: the rows of the training subjects, from which corrupted values
        are drawn, and all labels.
        """
        return {"values": self.values[train], "missing": self.missing[train], "label": self.label}

    def to_json(self) -> dict[str, Any]:
        return self.encoder.to_json() if self.encoder else {}


def read(
    dataset: Dataset,
    subjects: np.ndarray,
    *,
    seed: int,
    groups: str,
    without_leaks_for: str,
    label: str,
    control: str,
    imputation: str = "mean",
    **fractions: float,
) -> Table:
    """The table of `config.table`.

    Args:
        subjects: those that train; imputation, scaling and classes are learned from their rows
            alone.
        groups: as `Schema.select`; or `none`, for images alone.
        label: the categorical column that serves as label; empty: none.
        control: `shuffled` gives every subject the row of another subject of its split (the
            permutation control); `noise` gives random numbers in the same columns. The label moves
            with the row. A gain that remains under a control does not come from the table's
            information about the subject.
        imputation: of missing numbers: `mean`, or `iterative`, predicted from the row's other
            numbers.
        fractions: of a row's columns that are corrupted or masked in training, checked here.

    Raises:
        TableError: a selection of nothing; a column that cannot be read.
        ValueError: an unknown control or imputation; a label that is absent, continuous or has one
            class only.
    """
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"config.table.{name}={fraction}: give a fraction from 0 to 1")
    if control not in CONTROLS:
        raise ValueError(f"config.table.control={control!r} is unknown: choose one of {', '.join(CONTROLS)}")
    if imputation not in IMPUTATIONS:
        raise ValueError(f"config.table.imputation={imputation!r} is unknown: choose one of {', '.join(IMPUTATIONS)}")
    codes, classes = _label(dataset, subjects, label)
    if groups == "none":
        empty = np.zeros((len(dataset.subjects), 0))
        return Table(None, empty.astype(np.float32), empty.astype(bool), codes, classes)
    schema = dataset.schema.select(groups)
    if without_leaks_for:
        schema = schema.without_leaks(without_leaks_for)
    encoder = TableEncoder.fit(dataset.table.iloc[subjects], schema, imputation)
    values, missing = encoder.encode(dataset.table)
    random = np.random.default_rng((seed, CONTROLS.index(control)))
    if control == "shuffled":
        source = _shuffled(missing, dataset.splits, random)
        values, missing, codes = values[source], missing[source], codes[source]
    elif control == "noise":
        values, missing = _noise(values, missing, encoder.cardinalities, random)
        codes = codes[random.permutation(len(codes))]
    return Table(encoder, values, missing, codes, classes)


def _shuffled(missing: np.ndarray, splits: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The subject whose row each subject gets, int [N]: one cycle through the subjects of each
    split that have a row, so that nobody keeps their own (where there are two or more).
    """
    source = np.arange(len(missing))
    for split in np.unique(splits):
        with_row = np.flatnonzero((splits == split) & ~missing.all(axis=1))
        order = random.permutation(with_row)
        source[order] = np.roll(order, 1)
    return source


def _noise(values: np.ndarray, missing: np.ndarray, cardinalities: tuple[int, ...], random: np.random.Generator):
    """Normally distributed numbers and uniformly distributed codes, for every subject that has a
    row.
    """
    columns = [random.normal(size=len(values)) if k == 1 else random.integers(0, k, len(values)) for k in cardinalities]
    no_row = missing.all(axis=1, keepdims=True)
    return np.where(no_row, values, np.stack(columns, 1)).astype(np.float32), np.broadcast_to(no_row, missing.shape)


def _label(dataset: Dataset, subjects: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The codes of the label column, int32 [N], -1 where unknown, and its classes; all unknown
    without a label.
    """
    if not name:
        return np.full(len(dataset.subjects), -1, np.int32), ()
    column = next((c for c in dataset.schema.columns if c.name == name), None)
    if column is None or column.kind == "continuous":
        problem = "is no column of the table" if column is None else "is continuous"
        categorical = [c.name for c in dataset.schema.columns if c.kind != "continuous"]
        raise ValueError(
            f"config.table.label={name!r} {problem}: choose one of {', '.join(categorical) or '(none is categorical)'}"
        )
    encoder = TableEncoder.fit(dataset.table.iloc[subjects], Schema((column,)))
    values, missing = encoder.encode(dataset.table)
    return np.where(missing[:, 0], -1, values[:, 0]).astype(np.int32), encoder.classes(name)
