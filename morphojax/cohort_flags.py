"""The command-line flags for the table of a raw cohort."""

import argparse
from pathlib import Path

# For --help: the names in data.sources.SOURCES, whose import would slow it.
SOURCES = ("acdc", "mnms", "mnms2", "nifti_table", "sunnybrook", "synthetic", "ukb_dicom", "ukb_nifti")
FIRST_IMAGING_VISIT = 2


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
