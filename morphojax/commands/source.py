"""The source of a raw cohort that the flags of a command describe."""

import argparse
from pathlib import Path
from typing import Any

from morphojax.data.sources import SOURCES, CohortError, Source
from morphojax.data.sources.table_files import UkbTableSource
from morphojax.data.tables.ukb_headers import UkbTableSpec


def make_source(name: str, root: Path, frames: str, args: argparse.Namespace) -> Source:
    """The source `name` over a folder, with the table of `cohort_flags.add_table`. Raises
    CohortError.
    """
    if name not in SOURCES:
        raise CohortError(f"--source={name} is unknown: choose one of {', '.join(sorted(SOURCES))}")
    export = UkbTableSpec(args.table_fields, args.table_visit)
    options: dict[str, Any] = {}
    if issubclass(SOURCES[name], UkbTableSource):
        options["export"] = export
    elif export != UkbTableSpec():
        raise CohortError(f"the source {name} reads no UK Biobank export; leave out --table_fields and --table_visit")
    return SOURCES[name](root, table=args.table, dictionary=args.dictionary, frames=frames, **options)
