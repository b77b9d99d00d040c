"""Removes subjects who withdrew from a prepared dataset, without the raw cohort.

    morphojax exclude --dataset=DIR --list=FILE --key=COHORT/morphojax.key

The list holds one id per line, or is a CSV with a column eid, subject or id. A dataset that was
prepared with a key needs that key. The dataset is written anew and replaces the old one, with a
new fingerprint: train again what was trained on the old one. It prints counts, never an id.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import flags


def parser() -> argparse.ArgumentParser:
    p = flags.make_parser("exclude", __doc__)
    p.add_argument("--dataset", required=True, type=Path, metavar="DIR", help="a dataset that prepare made")
    p.add_argument(
        "--list", required=True, type=Path, metavar="FILE", help="ids of subjects who withdrew, one per line"
    )
    p.add_argument("--key", type=Path, metavar="FILE", help="the key of the dataset's pseudonyms")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.exclude", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
