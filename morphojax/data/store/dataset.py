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

import dataclasses
import hashlib
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data.geometry import Grid, Placement
from morphojax.data.store.records import RecordError, Records, Shard, write_atomically
from morphojax.data.store.splits import SPLITS
from morphojax.data.tables.schema import Schema

FORMAT_VERSION = 2
MANIFEST = "dataset.json"
STACK_COLUMNS = ("subject", "phase", "phase_from", "first", "slices", "structures")  # of stacks.csv


class DatasetError(ValueError):
    """A prepared dataset that cannot be used. The message names the file and what to do."""


_OWN = "manifest_sha256"  # key of the manifest's digest of itself; datasets of older versions lack it


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a dataset holds.

    labelled: by plane, the structures annotated in at least one subject.
    warnings: subjects per message.
    counts: subjects per split; stacks, slices and label voxels per plane; subjects left out.
    files, slices, native: path, size and hash of the CSV files and of the shards by plane.
    pseudonyms: identifies the key of the names (`Pseudonyms.check`); empty if they are ids.
    """

    source: str
    grid: Grid
    percentiles: tuple[float, float]
    planes: tuple[str, ...]
    labelled: Mapping[str, tuple[str, ...]]
    schema: Schema
    warnings: Mapping[str, int]
    counts: Mapping[str, Any]
    files: tuple[Shard, ...]
    slices: Mapping[str, tuple[Shard, ...]]
    native: Mapping[str, tuple[Shard, ...]]
    format_version: int = FORMAT_VERSION
    pseudonyms: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": self.format_version,
            "source": self.source,
            "grid": self.grid.to_json(),
            "percentiles": list(self.percentiles),
            "planes": list(self.planes),
            "labelled": {plane: list(names) for plane, names in self.labelled.items()},
            "schema": self.schema.to_json(),
            "warnings": dict(self.warnings),
            "counts": dict(self.counts),
            "files": [f.to_json() for f in self.files],
            "slices": {plane: [s.to_json() for s in shards] for plane, shards in self.slices.items()},
            "native": {plane: [s.to_json() for s in shards] for plane, shards in self.native.items()},
        } | ({"pseudonyms": self.pseudonyms} if self.pseudonyms else {})

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        def shards(key: str) -> dict[str, tuple[Shard, ...]]:
            return {plane: tuple(Shard.from_json(s) for s in states) for plane, states in state[key].items()}

        low, high = state["percentiles"]
        return cls(
            source=state["source"],
            grid=Grid.from_json(state["grid"]),
            percentiles=(float(low), float(high)),
            planes=tuple(state["planes"]),
            labelled={plane: tuple(names) for plane, names in state["labelled"].items()},
            schema=Schema.from_json(state["schema"]),
            warnings=dict(state["warnings"]),
            counts=dict(state["counts"]),
            files=tuple(Shard.from_json(f) for f in state["files"]),
            slices=shards("slices"),
            native=shards("native"),
            format_version=state["format_version"],
            pseudonyms=state.get("pseudonyms", ""),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest and so of every file: equal fingerprints mean equal datasets."""
        return _digest(self.to_json())[:16]

    def write(self, root: Path) -> None:
        """With a digest of itself: it holds the units and hashes of everything else."""
        state = self.to_json()
        write_atomically(root / MANIFEST, (json.dumps(state | {_OWN: _digest(state)}, indent=1) + "\n").encode())


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
        manifest = _read_manifest(root)
        try:
            for shard in (*manifest.files, *_shards(manifest.slices), *_shards(manifest.native)):
                # The CSV files are small and assign pixels to subjects: always check hashes.
                shard.check(root, thorough=verify or shard in manifest.files)
        except RecordError as error:
            raise DatasetError(str(error)) from error
        subjects = pd.read_csv(root / "subjects.csv", dtype=str, keep_default_na=False)
        table = read_csv(root / "table.csv", manifest.schema)
        stacks = {p: _read_stacks(root / p / "stacks.csv") for p in manifest.planes}
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


def _read_stacks(path: Path) -> pd.DataFrame:
    stacks = pd.read_csv(path, keep_default_na=False, dtype={"structures": str})
    if "phase_from" not in stacks:  # datasets of older versions lack it
        stacks = stacks.assign(phase_from="")
    return stacks.assign(labelled=stacks["structures"] != "")


def _shards(by_plane: Mapping[str, tuple[Shard, ...]]) -> tuple[Shard, ...]:
    return tuple(s for shards in by_plane.values() for s in shards)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetError(f"{path} not found: {root} is not a prepared dataset; run morphojax.prepare first") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); run prepare again") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise DatasetError(f"{path}: format version {version}, this code reads {FORMAT_VERSION}; run prepare again")
    expected = state.pop(_OWN, None)
    if expected is not None and expected != _digest(state):
        raise DatasetError(f"{path} does not hold what was written; copy the dataset again, or run prepare again")
    try:
        manifest = Manifest.from_json(state)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not a valid manifest ({error!r}); run prepare again") from error
    return manifest


__all__ = ["MANIFEST", "SPLITS", "Dataset", "DatasetError", "Manifest"]
