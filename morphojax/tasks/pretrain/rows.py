"""The table as a pretraining reads it: columns selected, encoded with what the training rows teach, and the controls."""

import dataclasses
from typing import Any

import numpy as np

from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.encoder import IMPUTATIONS, TableEncoder
from morphojax.data.tables.schema import Schema
from morphojax.train import devices

CONTROLS = ("none", "shuffled", "noise")


@dataclasses.dataclass(frozen=True)
class Table:
    """values float32 [N,F] and missing bool [N,F] for the N subjects of a dataset; label int32 [N], -1 where unknown, of `classes`."""

    encoder: TableEncoder | None  # None: no table takes part
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

    def with_rows(self, subjects: np.ndarray, say: bool = True) -> np.ndarray:
        """Those of the subjects that have a table row. How many are left out is told, where wanted."""
        kept = subjects[~self.missing[subjects].all(axis=1)]
        if say and len(kept) < len(subjects):
            devices.say(f"{len(subjects) - len(kept)} of {len(subjects)} subjects have no table row: left out")
        return kept

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
    **drawn: float,
) -> Table:
    """The table of a config.

    Args:
        subjects: those that train; imputation, scaling and classes are learned from their rows alone.
        groups: as `Schema.select`; or `none`, for images alone.
        label: the categorical column that serves as label; empty: none.
        control: `shuffled` gives every subject the row of another of its split; `noise` a row of random numbers of its own, of the
            same columns. The label goes the same way. What a pretraining gains with these, it did not gain from what the table knows.
        imputation: of missing numbers: `mean`, or `iterative`, told from the row's other numbers.
        drawn: shares of a row that are corrupted or hidden in training, checked here.

    Raises:
        TableError: a selection of nothing; a column that cannot be read.
        ValueError: an unknown control or imputation, a label that is absent, continuous or has one class only.
    """
    for name, share in drawn.items():
        if not 0 <= share <= 1:
            raise ValueError(f"config.table.{name}={share}: give a share, from 0 to 1")
    if control not in CONTROLS:
        raise ValueError(f"config.table.control={control!r} is unknown: choose one of {', '.join(CONTROLS)}")
    if imputation not in IMPUTATIONS:
        raise ValueError(f"config.table.imputation={imputation!r} is unknown: choose one of {', '.join(IMPUTATIONS)}")
    codes, classes = _label(dataset, subjects, label)
    if groups == "none":
        nothing = np.zeros((len(dataset.subjects), 0))
        return Table(None, nothing.astype(np.float32), nothing.astype(bool), codes, classes)
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
    """Whose row each subject gets: handed round within each split, among those that have one; nobody keeps their own (of two or more)."""
    source = np.arange(len(missing))
    for split in np.unique(splits):
        with_row = np.flatnonzero((splits == split) & ~missing.all(axis=1))
        circle = random.permutation(with_row)
        source[circle] = np.roll(circle, 1)
    return source


def _noise(values: np.ndarray, missing: np.ndarray, cardinalities: tuple[int, ...], random: np.random.Generator):
    """Normal numbers and even codes for every subject that has a row."""
    columns = [random.normal(size=len(values)) if k == 1 else random.integers(0, k, len(values)) for k in cardinalities]
    no_row = missing.all(axis=1, keepdims=True)
    return np.where(no_row, values, np.stack(columns, 1)).astype(np.float32), np.broadcast_to(no_row, missing.shape)


def _label(dataset: Dataset, subjects: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if not name:
        return np.full(len(dataset.subjects), -1, np.int32), ()
    found = [c for c in dataset.schema.columns if c.name == name]
    usable = [c.name for c in dataset.schema.columns if c.kind != "continuous"]
    if not found or found[0].kind == "continuous":
        what = "is continuous" if found else "is no column of the table"
        raise ValueError(
            f"config.table.label={name!r} {what}: choose one of {', '.join(usable) or '(none is categorical)'}"
        )
    encoder = TableEncoder.fit(dataset.table.iloc[subjects], Schema((found[0],)))
    values, missing = encoder.encode(dataset.table)
    return np.where(missing[:, 0], -1, values[:, 0]).astype(np.int32), encoder.classes(name)
