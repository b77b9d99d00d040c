"""Translates ids to pseudonyms."""

import argparse
import sys
from pathlib import Path

from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.exit_codes import COMPLETE


def run(args: argparse.Namespace) -> int:
    pseudonyms = Pseudonyms.read(args.key)
    text = sys.stdin.read() if args.ids == "-" else Path(args.ids).read_text(encoding="utf-8-sig")
    if args.pairs:
        print("subject,pseudonym")
    for subject in text.split():
        print(f"{subject},{pseudonyms(subject)}" if args.pairs else pseudonyms(subject))
    return COMPLETE
