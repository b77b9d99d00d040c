"""Preparations for tests: by default in one process, without a progress bar."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from morphojax.data.geometry import Grid
from morphojax.data.prepare import assemble
from morphojax.data.prepare.assemble import Summary
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import Source
from morphojax.data.store.dataset import Manifest

RUN_OPTIONS = ("workers", "strict", "progress", "hidden")  # of `assemble.prepare`; the others are of `PrepareSpec`


def prepare(source: Source, output: str | Path, **options: Any) -> Summary:
    """options: of `PrepareSpec` and of `assemble.prepare`."""
    run = {"workers": 1, "progress": False} | {k: options.pop(k) for k in RUN_OPTIONS if k in options}
    return assemble.prepare(PrepareSpec(source, Path(output), **options), **run)


def prepare_acdc(root: Path, output: Path, frames: str = "phases", **options: Any) -> Summary:
    """Prepares the small cohort of `cohorts.acdc`, on a grid of 16 pixels unless told otherwise."""
    return prepare(Acdc(root, frames=frames), output, **{"name": "acdc", "grid": Grid(1.5, 16)} | options)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@contextlib.contextmanager
def interrupted_before_the_manifest(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupts a preparation when everything but the manifest is written."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Manifest, "write", interrupt)
        yield
