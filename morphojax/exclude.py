"""Removes subjects who withdrew from a prepared dataset, without the raw cohort.

    python -m morphojax.exclude --dataset=DIR --list=FILE --key=COHORT/morphojax.key

The list holds one id per line, or is a CSV with a column eid, subject or id. A dataset that was
prepared with a key needs that key. The dataset is written anew and replaces the old one, with a
new fingerprint: train again what was trained on the old one. It prints counts, never an id.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax.data.inspection import survey
from morphojax.data.prepare.exclusion import Excluded, exclude
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.prepare.withdrawals import read_list
from morphojax.data.sources import CohortError
from morphojax.data.store.dataset import Dataset, DatasetError
from morphojax.evaluation import figures


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m morphojax.exclude", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--dataset", required=True, type=Path, metavar="DIR", help="a dataset that prepare made")
    p.add_argument(
        "--list", required=True, type=Path, metavar="FILE", help="ids of subjects who withdrew, one per line"
    )
    p.add_argument("--key", type=Path, metavar="FILE", help="the key of the dataset's pseudonyms")
    return p


def describe(result: Excluded, root: Path) -> str:
    return (
        f"{root}: {result.removed} subjects removed, {result.remaining} remain, fingerprint {result.fingerprint}\n"
        f"{result.unknown:>9} ids of the list are not in the dataset"
    )


def _draw_contact_sheet(folder: Path) -> None:
    tiles = survey.tiles(Dataset.open(folder))
    figures.contact_sheet(folder / "contact_sheet.png", tiles, columns=survey.SHEET_COLUMNS)


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    try:
        pseudonym = Pseudonyms.read(flags.key) if flags.key else None
        result = exclude(flags.dataset, read_list(flags.list), _draw_contact_sheet, pseudonym)
    except (DatasetError, CohortError, ValueError, OSError) as error:
        print(f"exclude: {error}", file=sys.stderr)
        return 1
    print(describe(result, flags.dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
