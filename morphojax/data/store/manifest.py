"""The manifest of a prepared dataset: what it holds, as `dataset.json` and as an object."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from morphojax import anatomy
from morphojax.data import json_text
from morphojax.data.errors import NamedError
from morphojax.data.geometry import Grid
from morphojax.data.store.records import Shard, write_atomically
from morphojax.data.tables.schema import COLUMN_SHAPE, Schema

FORMAT_VERSION = 2
MANIFEST = "dataset.json"
OWN = "manifest_sha256"  # key of the manifest's digest of itself; datasets of older versions lack it
_SHARD = {"path": str, "records": int, "bytes": int, "sha256": str}
_SHAPE = {
    "source": str,
    "grid": {"spacing_mm": float, "size": int},
    "percentiles": [float],
    "planes": [str],
    "labelled": {str: [str]},
    "schema": [COLUMN_SHAPE],
    "warnings": {str: int},
    "counts": {str: object},
    "files": [_SHARD],
    "slices": {str: [_SHARD]},
    "native": {str: [_SHARD]},
    "format_version": int,
    "pseudonyms?": str,
}


class DatasetError(NamedError):
    """A prepared dataset that cannot be used. The message names the file and what to do."""


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

    def check(self) -> None:
        """Raises ValueError for planes and files that no dataset has."""
        if not set(self.planes) <= set(anatomy.PLANES) or len(set(self.planes)) != len(self.planes):
            raise ValueError(f"planes {list(self.planes)}")
        if not set(self.planes) == set(self.slices) == set(self.native) == set(self.labelled):
            raise ValueError(f"shards or structures of other planes than {list(self.planes)}")
        needed = {"subjects.csv", "table.csv", *(f"{plane}/stacks.csv" for plane in self.planes)}
        if absent := needed - {file.path for file in self.files}:
            raise ValueError(f"{min(absent)} is not among its files")
        for shard in (*self.files, *shards(self.slices), *shards(self.native)):
            if Path(shard.path).is_absolute() or ".." in Path(shard.path).parts or shard.records < 0:
                raise ValueError(f"a file {shard.path!r} of {shard.records} records")

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest and so of every file: equal fingerprints mean equal datasets."""
        return _digest(self.to_json())[:16]

    def write(self, root: Path) -> None:
        """With a digest of itself: it holds the units and hashes of everything else."""
        state = self.to_json()
        write_atomically(root / MANIFEST, (json.dumps(state | {OWN: _digest(state)}, indent=1) + "\n").encode())


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def shards(by_plane: Mapping[str, tuple[Shard, ...]]) -> tuple[Shard, ...]:
    return tuple(s for shards in by_plane.values() for s in shards)


def read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        state = json_text.parse(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"{path} not found: {root} is not a prepared dataset; run morphojax.prepare first") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); run prepare again") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise DatasetError(f"{path}: format version {version}, this code reads {FORMAT_VERSION}; run prepare again")
    expected = state.pop(OWN, None)
    if expected is not None and expected != _digest(state):
        raise DatasetError(f"{path} does not hold what was written; copy the dataset again, or run prepare again")
    try:
        if found := json_text.problem(state, _SHAPE):
            raise ValueError(found)
        manifest = Manifest.from_json(state)
        manifest.check()
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: not a valid manifest ({error!r}); run prepare again") from error
    return manifest
