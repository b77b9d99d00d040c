"""Takes subjects who withdrew out of a prepared dataset, without the raw cohort.

    python -m morphojax.exclude --dataset=DIR --list=FILE --key=COHORT/morphojax.key

The list holds one id a line, or is a CSV whose first column is the id; a dataset that was prepared with a key needs it. The dataset is
written anew and takes the place of the old one, with a fingerprint of its own: what was trained on the old one is to be trained again. It
prints counts, never an id.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax.data.inspection import survey
from morphojax.data.prepare import exclusion
from morphojax.data.prepare.exclusion import Excluded
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources import CohortError
from morphojax.data.store.dataset import Dataset, DatasetError
from morphojax.evaluation import figures


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m morphojax.exclude", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--dataset", required=True, type=Path, metavar="DIR", help="a dataset that prepare made")
    p.add_argument("--list", required=True, type=Path, metavar="FILE", help="ids of those who withdrew, one a line")
    p.add_argument("--key", type=Path, metavar="FILE", help="the key of the dataset's pseudonyms")
    return p


def describe(found: Excluded, root: Path) -> str:
    return (
        f"{root}: {found.removed} subjects removed, {found.remaining} remain, fingerprint {found.fingerprint}\n"
        f"{found.unknown:>9} ids of the list are not in the dataset"
    )


def _draw(folder: Path) -> None:
    tiles = survey.tiles(Dataset.open(folder))
    figures.contact_sheet(folder / "contact_sheet.png", tiles, columns=survey.SHEET_COLUMNS)


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    try:
        pseudonym = Pseudonyms.read(flags.key) if flags.key else None
        found = exclusion.exclude(flags.dataset, exclusion.read_list(flags.list), _draw, pseudonym)
    except (DatasetError, CohortError, ValueError, OSError) as error:
        print(f"exclude: {error}", file=sys.stderr)
        return 1
    print(describe(found, flags.dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
