"""The prepared dataset: what `prepare` writes and everything else reads.

    dataset.json           the manifest, written last: a folder without it is not a dataset
    subjects.csv           subject (id or pseudonym), split; the row number is the subject's index
    table.csv              raw table values by subject index
    <plane>/stacks.csv     one row per stack: subject (index), phase, phase_from (how the phase is
                           known), first (its first slice), slices (how many), structures (those
                           annotated, separated by spaces)
    <plane>/slices-*       one record per slice: image and label on the grid
    <plane>/native-*       one record per stack: label on the native grid (or none), placement

The manifest holds no subject's name, so a run may keep a copy of it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.geometry import Placement
from morphojax.data.store.manifest import FORMAT_VERSION, MANIFEST, DatasetError, Manifest, read_manifest, shards
from morphojax.data.store.records import RecordError, Records
from morphojax.data.store.splits import SPLITS
from morphojax.data.tables.schema import Schema

STACK_COLUMNS = ("subject", "phase", "phase_from", "first", "slices", "structures")  # of stacks.csv


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset on disk. `splits` and `table` are by subject index."""

    root: Path
    manifest: Manifest
    subjects: tuple[str, ...]
    splits: np.ndarray  # str [N], one of SPLITS
    table: pd.DataFrame  # index 0..N-1, one column per schema column, raw values
    _stacks: Mapping[str, pd.DataFrame]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Self:
        """Opens a dataset and checks the size of every file.

        verify: also compare the hash of every file, which reads them all. Raises DatasetError.
        """
        root = Path(path)
        manifest = read_manifest(root)
        try:
            for shard in (*manifest.files, *shards(manifest.slices), *shards(manifest.native)):
                # The CSV files are small and assign pixels to subjects: always check hashes.
                shard.check(root, thorough=verify or shard in manifest.files)
        except RecordError as error:
            raise DatasetError(str(error)) from error
        subjects = _read_subjects(root / "subjects.csv")
        table = _read_table(root / "table.csv", manifest.schema, len(subjects))
        records = {plane: len(Records(root, shards)) for plane, shards in manifest.slices.items()}
        native = {plane: len(Records(root, shards)) for plane, shards in manifest.native.items()}
        stacks = {
            p: _read_stacks(root / p / "stacks.csv", len(subjects), records[p], native[p]) for p in manifest.planes
        }
        return cls(root, manifest, tuple(subjects["subject"]), subjects["split"].to_numpy(str), table, stacks)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def schema(self) -> Schema:
        return self.manifest.schema

    def stacks(self, plane: str) -> pd.DataFrame:
        """A row per stack: the columns of stacks.csv, and `labelled` (any structure annotated).

        `first` is the record number of the stack's first slice; its slices are consecutive records.
        """
        self._check_plane(plane)
        return self._stacks[plane].copy()

    def annotated(self, plane: str) -> np.ndarray:
        """Which structures are annotated in each stack, bool [stacks, anatomy.STRUCTURES].

        Where a structure is not annotated, a zero in the label does not mean that it is absent.
        """
        annotated = self.stacks(plane)["structures"].str.split()
        rows = [[s in names for s in anatomy.STRUCTURES] for names in annotated]
        return np.array(rows, bool).reshape(len(rows), len(anatomy.STRUCTURES))

    def slices(self, *planes: str) -> Records:
        """The slices: [i] -> {"image": uint8 [H, W], "label": uint8 [H, W]}.

        The label is zero where the stack is not labelled. Several planes are concatenated.
        """
        for plane in planes:
            self._check_plane(plane)
        return Records(self.root, [shard for plane in planes for shard in self.manifest.slices[plane]])

    def native(self, plane: str, row: int) -> tuple[np.ndarray | None, Placement]:
        """The native label (uint8 [X, Y, Z], canonical ids; or None) and placement of a stack."""
        self._check_plane(plane)
        return decode_native(Records(self.root, self.manifest.native[plane])[row])

    def _check_plane(self, plane: str) -> None:
        if plane not in self.manifest.planes:
            raise DatasetError(
                f"{self.root} holds no plane {plane!r}, only {', '.join(self.manifest.planes)}; "
                f"run prepare with --planes={plane}"
            )


def encode_native(label: np.ndarray | None, placement: Placement) -> dict[str, Any]:
    """A stack's native record. Of the label only the bounding box is stored."""
    record: dict[str, Any] = {"placement": json.dumps(placement.to_json())}
    if label is not None:
        labelled = label != anatomy.BACKGROUND
        in_plane = labelled.any(axis=2)
        along_axes = in_plane.any(axis=1), in_plane.any(axis=0), labelled.any(axis=(0, 1))
        indices = [np.flatnonzero(axis) for axis in along_axes]
        box = [(int(i[0]), int(i[-1]) + 1) if i.size else (0, 0) for i in indices]
        record["origin"] = np.array([first for first, _ in box], np.int32)
        record["box"] = np.ascontiguousarray(label[tuple(slice(*b) for b in box)])
    return record


def decode_native(record: Mapping[str, Any]) -> tuple[np.ndarray | None, Placement]:
    """The native label (uint8 [X, Y, Z] or None) and placement that `encode_native` encoded."""
    placement = Placement.from_json(json.loads(record["placement"]))
    if "box" not in record:
        return None, placement
    label = np.zeros(placement.shape, np.uint8)
    box = tuple(slice(o, o + n) for o, n in zip(record["origin"], record["box"].shape, strict=True))
    label[box] = record["box"]
    return label, placement


def read_csv(path: Path, schema: Schema) -> pd.DataFrame:
    """table.csv, by subject index. Classes are read as text: "01" stays "01"."""
    texts: dict[Hashable, Any] = {c.name: str for c in schema.columns if c.kind != "continuous"}
    table = pd.read_csv(
        path, index_col=0, dtype=texts, keep_default_na=False, na_values=[""], float_precision="round_trip"
    )
    table.index.name = None
    return table


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the errors of pandas, and those of a check, into a DatasetError that names the file."""
    try:
        with np.errstate(invalid="ignore"):  # pandas casts numbers beyond 64 bits; the check refuses them
            yield
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        problem = f"no column {error}" if isinstance(error, KeyError) else error
        raise DatasetError(f"{path}: not as prepare writes it ({problem}); copy the dataset again") from error


def _read_subjects(path: Path) -> pd.DataFrame:
    with _reading(path):
        subjects = pd.read_csv(path, dtype=str, keep_default_na=False)[["subject", "split"]]
        if unknown := set(subjects["split"]) - set(SPLITS):
            raise ValueError(f"splits {sorted(unknown)}")
        if subjects["subject"].duplicated().any() or not subjects["subject"].all():
            raise ValueError("a subject without a name, or listed twice")
    return subjects


def _read_table(path: Path, schema: Schema, subjects: int) -> pd.DataFrame:
    with _reading(path):
        table = read_csv(path, schema)
        if list(table.columns) != list(schema.names):
            raise ValueError("its columns are not those of the schema")
        if list(table.index) != list(range(subjects)):
            raise ValueError(f"its rows are not those of the {subjects} subjects")
    return table


def _read_stacks(path: Path, subjects: int, count: int, native: int) -> pd.DataFrame:
    with _reading(path):
        numbers: dict[Hashable, Any] = dict.fromkeys(("subject", "first", "slices"), np.int64)
        stacks = pd.read_csv(path, keep_default_na=False, dtype=numbers | {"structures": str})
        if "phase_from" not in stacks:  # datasets of older versions lack it
            stacks = stacks.assign(phase_from="")
        stacks = stacks[list(STACK_COLUMNS)]
        subject, first, slices = (stacks[name].to_numpy() for name in numbers)
        if ((subject < 0) | (subject >= subjects)).any():
            raise ValueError(f"a stack of a subject beyond the {subjects} subjects")
        if ((first < 0) | (slices < 1) | (first > count - slices)).any():
            raise ValueError(f"a stack of slices beyond the {count} in the shards")
        if len(stacks) != native:
            raise ValueError(f"{len(stacks)} stacks, and {native} native labels in the shards")
    return stacks.assign(labelled=stacks["structures"] != "")


__all__ = ["FORMAT_VERSION", "MANIFEST", "SPLITS", "Dataset", "DatasetError", "Manifest"]
