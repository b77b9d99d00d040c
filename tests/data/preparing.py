"""Preparations of the suite: in one process, without a progress bar, unless said."""

from pathlib import Path
from typing import Any

from morphojax.data import preparation
from morphojax.data.orders import Order
from morphojax.data.preparation import Summary
from morphojax.data.sources.base import Source

HOW = ("workers", "strict", "progress", "hidden")


def prepare(source: Source, output: str | Path, **options: Any) -> Summary:
    """`options`: of `Order`, and of `preparation.prepare`."""
    how = {"workers": 1, "progress": False} | {k: options.pop(k) for k in HOW if k in options}
    return preparation.prepare(Order(source, Path(output), **options), **how)
