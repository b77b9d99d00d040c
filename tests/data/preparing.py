"""Preparations of the suite: in one process, without a progress bar, unless said."""

from pathlib import Path
from typing import Any

from morphojax.data.prepare import assemble
from morphojax.data.prepare.assemble import Summary
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources.base import Source

HOW = ("workers", "strict", "progress", "hidden")


def prepare(source: Source, output: str | Path, **options: Any) -> Summary:
    """`options`: of `PrepareSpec`, and of `assemble.prepare`."""
    how = {"workers": 1, "progress": False} | {k: options.pop(k) for k in HOW if k in options}
    return assemble.prepare(PrepareSpec(source, Path(output), **options), **how)
