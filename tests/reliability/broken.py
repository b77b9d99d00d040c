"""Readers that fail in every way that the fuzzer must notice."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from morphojax.data.errors import NamedError
from tests.reliability.mutations import Mutate, bits
from tests.reliability.targets import Target, require

FAILS_AT = 2  # number of the first input that fails; the inputs after it are read


def _build(folder: Path) -> Sequence[tuple[str, Mutate]]:
    (folder / "file.txt").write_text("intact")
    (folder.with_name("count")).write_text("0")
    return [("file.txt", bits)]


def _target(name: str, fail: Callable[[], object]) -> Target:
    def read(folder: Path, changed: Sequence[Path]) -> None:
        count = folder.with_name("count")
        number = int(count.read_text())
        count.write_text(str(number + 1))
        if number == FAILS_AT:
            fail()

    return Target(name, _build, read, (NamedError,))


def _key_error() -> None:
    {}["x"]


def _raise(error: Exception) -> None:
    raise error


def _reserve() -> None:
    try:
        np.zeros(2**45, np.uint8)
    except MemoryError as error:
        raise NamedError("file.txt: damaged") from error


def _warn() -> None:
    for i in range(30):
        warnings.warn(f"number {i}", UserWarning, stacklevel=1)


TARGETS = tuple(
    _target(name, fail)
    for name, fail in {
        "error": _key_error,
        "hang": lambda: time.sleep(60),
        "memory": lambda: np.ones(2**27, np.uint8).sum(),
        "reserved": _reserve,
        "crash": os.abort,
        "implausible": lambda: require(False, "a spacing of 1500 mm"),
        "warnings": _warn,
        "arithmetic": lambda: np.float32(3e38) * np.float32(10),
        "lines": lambda: _raise(ValueError("not named")),
        "unnamed": lambda: _raise(NamedError("nothing")),
    }.items()
)
