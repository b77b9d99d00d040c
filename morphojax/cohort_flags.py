"""The command-line flags for the table of a raw cohort, and the source that they configure."""

import argparse
from pathlib import Path
from typing import Any

from morphojax.data.sources import SOURCES, Source
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.table_files import UkbTableSource
from morphojax.data.tables.ukb_headers import FIRST_IMAGING_VISIT, UkbTableSpec


def add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--table", type=Path, help="a row per subject, or an export of UK Biobank; default: the cohort's own"
    )
    parser.add_argument("--dictionary", type=Path, help="CSV that gives kind, group and unit of the table's columns")
    parser.add_argument(
        "--table_fields", default="", metavar="FIELDS",
        help="of a UK Biobank export: published_118, cardiac_morphometric, ids separated by commas, or a file of ids; default: all known",
    )  # fmt: skip
    parser.add_argument(
        "--table_visit", type=int, default=FIRST_IMAGING_VISIT,
        help="of a UK Biobank export: 2 (default) is the first imaging visit",
    )  # fmt: skip


def source(name: str, root: Path, frames: str, flags: argparse.Namespace) -> Source:
    """The source `name` over a folder, with the table of the flags. Raises CohortError."""
    export = UkbTableSpec(flags.table_fields, flags.table_visit)
    options: dict[str, Any] = {}
    if issubclass(SOURCES[name], UkbTableSource):
        options["export"] = export
    elif export != UkbTableSpec():
        raise CohortError(f"the source {name} reads no UK Biobank export; leave out --table_fields and --table_visit")
    return SOURCES[name](root, table=flags.table, dictionary=flags.dictionary, frames=frames, **options)
