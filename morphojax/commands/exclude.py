"""Removes subjects from a prepared dataset."""

import argparse
from pathlib import Path

from morphojax.commands.contact_sheet import draw_contact_sheet
from morphojax.data.prepare.exclusion import Excluded, exclude
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.prepare.withdrawals import read_list
from morphojax.exit_codes import COMPLETE


def run(args: argparse.Namespace) -> int:
    pseudonym = Pseudonyms.read(args.key) if args.key else None
    result = exclude(args.dataset, read_list(args.list), draw_contact_sheet, pseudonym)
    print(describe(result, args.dataset))
    return COMPLETE


def describe(result: Excluded, root: Path) -> str:
    return (
        f"{root}: {result.removed} subjects removed, {result.remaining} remain, fingerprint {result.fingerprint}\n"
        f"{result.unknown:>9} ids of the list are not in the dataset"
    )
