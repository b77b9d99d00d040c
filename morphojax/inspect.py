"""Reports what a raw cohort or a prepared dataset holds, and what in it looks suspicious.

    morphojax inspect DIR
    morphojax inspect DIR --source=acdc --planes=sax --output=REPORT

It prints subjects by plane, geometry, labels, the columns of the table, and a list of suspicions.
A subject is its index, in the order of the ids. --ids also prints the id of each index, and why a
subject cannot be read: for your own terminal, never for a log. --output writes:
    inspect.csv         a row per image, by index: shape, spacing, orientation, volumes (ml; in
                        a long-axis plane areas, cm2)
    columns.csv         a row per column of the table: missing values, range, outliers
    suspicious.csv      the suspicions, with the indices of the subjects
    contact_sheet.png   of a prepared dataset: slices with their labels
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import anatomy, cohort_flags, flags
from morphojax.cohort_flags import SOURCES


def parser() -> argparse.ArgumentParser:
    p = flags.make_parser("inspect", __doc__)
    p.add_argument("dir", type=Path, metavar="DIR", help="a raw cohort, or a dataset that prepare made")
    p.add_argument("--source", help=f"layout of a raw cohort: {', '.join(SOURCES)}; default: recognised by its files")
    p.add_argument("--planes", help=f"among {','.join(anatomy.PLANES)}; default: all")
    cohort_flags.add_table(p)
    p.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the report; an older report there is replaced"
    )
    p.add_argument("--ids", action="store_true", help="also print subject ids: for your own terminal, never for a log")
    p.add_argument("--workers", type=int, help="processes for a raw cohort; default one per CPU")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.inspect", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
