"""Mistakes that a developer could make, written by hand in mistakes.toml, as mutants."""

import tomllib
from pathlib import Path

from tests.reliability.mutants import Mutant, make


def all_of(root: Path) -> list[Mutant]:
    """Raises ValueError where a text is not in its file exactly once."""
    listed = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text())["mistake"]
    return [_mutant(root, m["file"], m["old"], m["new"]) for m in listed]


def _mutant(root: Path, file: str, old: str, new: str) -> Mutant:
    source, text = (root / file).read_bytes(), old.encode()
    if source.count(text) != 1:
        raise ValueError(f"tests/reliability/mistakes.toml: {file} does not hold {old!r} exactly once")
    start = source.index(text)
    return make(file, source, start, start + len(text), new)
