"""ArrayRecord shards of msgpack records: written atomically, checked by size and hash."""

import contextlib
import dataclasses
import errno
import hashlib
import operator
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, SupportsIndex

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from flax import serialization

from morphojax.data.errors import NamedError

SHARD_RECORDS = 8192
SHARD_OVERHEAD = 98_304  # estimated bytes of a shard besides its records; ArrayRecord fills blocks of 64 KiB
# On MRI slices, level 1 takes a third of the time of the default level 3, and 1.5 % more bytes.
_OPTIONS = "group_size:1,zstd:1"


class RecordError(NamedError):
    """A shard that is absent, truncated or corrupt. The message names the file and what to do."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Size and hash of a dataset's file when it was written; `path` is relative."""

    path: str
    records: int
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(**state)

    def check(self, root: Path, *, thorough: bool = False) -> None:
        """Raises RecordError where file or size are wrong; `thorough` also compares hashes."""
        path = root / self.path
        advice = "run prepare again on an empty output folder, or copy the dataset again"
        try:
            if not path.is_file():
                raise RecordError(f"{path} is missing; {advice}")
            if path.stat().st_size != self.bytes:
                raise RecordError(f"{path} has {path.stat().st_size} bytes, {self.bytes} were written; {advice}")
            if thorough and checksum(path) != self.sha256:
                raise RecordError(f"{path} does not hold what was written; {advice}")
        except OSError as error:
            raise RecordError(f"{path} cannot be read ({error.strerror or error}); {advice}") from error


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(root: Path, relative: str, records: int = 0) -> Shard:
    """The `Shard` of a file as it is now."""
    path = root / relative
    return Shard(relative, records, path.stat().st_size, checksum(path))


def encode(record: Mapping[str, Any]) -> bytes:
    return serialization.msgpack_serialize(dict(record))


def decode(data: bytes) -> dict[str, Any]:
    restored: Any = serialization.msgpack_restore(data)
    return restored


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes a file completely or not at all; with `durable`, also when the power fails. An OSError
    names the file.
    """
    partial = _beside(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names none
        raise


def write_once(path: Path, data: bytes, mode: int = 0o666) -> bool:
    """Writes a file unless it exists; returns whether it was written.

    Of processes that try at the same time, on any machines with a shared disk, one writes the
    file and the others read it complete. Raises OSError.
    """
    partial = _beside(path)
    try:
        _create(partial, data, mode)
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:
        if not partial.exists():
            raise
        try:  # without hard links another process may read an incomplete file, but one still wins
            _create(path, data, mode)
        except FileExistsError:
            return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _create(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    """A random temporary name beside `path`: processes of two machines may share a number."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


class ShardWriter:
    """Writes encoded records to `<root>/<stem>-00000.array_record`, -00001, ... in order.

    Each record is compressed on its own, so reading one decompresses nothing else. A shard gets
    its name when it is complete. Raises OSError where the disk cannot be written.
    """

    def __init__(self, root: Path, stem: str, per_shard: int = SHARD_RECORDS):
        self._root, self._stem, self._per_shard = root, stem, per_shard
        self._shards: list[Shard] = []
        self._writer: ArrayRecordWriter | None = None
        self._records = 0

    def write(self, data: bytes) -> None:
        if self._writer is None:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            with self._naming_errors():
                self._writer, self._records = ArrayRecordWriter(str(self._partial), _OPTIONS), 0
        with self._naming_errors():
            self._writer.write(data)
        self._records += 1
        if self._records == self._per_shard:
            self._finish()

    def close(self) -> tuple[Shard, ...]:
        self._finish()
        return tuple(self._shards)

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """ArrayRecord's own errors are RuntimeErrors without a number."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(";")[0]
            raise OSError(errno.EIO, reason, str(self._partial)) from error

    @property
    def _relative(self) -> str:
        return f"{self._stem}-{len(self._shards):05d}.array_record"

    @property
    def _partial(self) -> Path:
        return self._root / f"{self._relative}.partial"

    def _finish(self) -> None:
        if self._writer is None:
            return
        with self._naming_errors():
            self._writer.close()
        self._writer = None
        self._partial.replace(self._root / self._relative)
        self._shards.append(describe(self._root, self._relative, self._records))


class Records:
    """Random access to the decoded records of shards.

    Picklable and cheap to build: files are opened on first use, once per process. Raises
    RecordError, naming the shard, for a record that cannot be read.
    """

    def __init__(self, root: Path, shards: Sequence[Shard]):
        self._root = root
        self._shards = tuple(shards)
        self._ends = np.cumsum([s.records for s in self._shards], dtype=np.int64)
        self._readers: dict[int, ArrayRecordReader] = {}
        self._pid = os.getpid()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        within = index - (int(self._ends[shard - 1]) if shard else 0)
        path = self._root / self._shards[shard].path
        try:
            data = self._reader(shard).read([within])[0]
            if not data:  # array_record returns this where a damaged index leads nowhere
                raise ValueError("empty record")
            return decode(data)
        except RecordError:
            raise
        except Exception as error:
            raise RecordError(f"{path}: record {within} cannot be read ({error}); run prepare again") from error

    def _reader(self, shard: int) -> ArrayRecordReader:
        if self._pid != os.getpid():  # after a fork: the parent process shares the file positions
            self._readers, self._pid = {}, os.getpid()
        if shard not in self._readers:
            written = self._shards[shard]
            written.check(self._root)
            reader = ArrayRecordReader(str(self._root / written.path), "readahead_buffer_size:0,max_parallelism:0")
            if reader.num_records() != written.records:
                raise RecordError(
                    f"{self._root / written.path} holds {reader.num_records()} records, {written.records} were "
                    "written; run prepare again on an empty output folder"
                )
            self._readers[shard] = reader
        return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    def __repr__(self) -> str:
        return f"Records({str(self._root)!r}, {[s.path for s in self._shards]}, {len(self)} records)"
