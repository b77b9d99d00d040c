"""The flags by which commands are told of a raw cohort's table, and the source that they make."""

import argparse
from pathlib import Path

from morphojax.data.sources import SOURCES, Source


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
        "--table_visit", type=int, default=2, help="of a UK Biobank export: 2 (default) is the first visit with imaging"
    )


def source(name: str, root: Path, frames: str, flags: argparse.Namespace) -> Source:
    """The source `name` over a folder, with the table that the flags of `add_table` tell. Raises CohortError."""
    return SOURCES[name](
        root,
        table=flags.table,
        dictionary=flags.dictionary,
        frames=frames,
        fields=flags.table_fields,
        visit=flags.table_visit,
    )
