"""Subject ids -> the pseudonyms that `prepare` gave them, one per line, in the same order.

    morphojax pseudonyms --key=COHORT/morphojax.key ids.txt > pseudonyms.txt
    ls COHORT | morphojax pseudonyms --key=COHORT/morphojax.key --pairs -

The first turns a list of ids into one for config.data.subjects. The second prints id and pseudonym
side by side, and so identifies people: protect its output as you protect the raw data.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import flags


def parser() -> argparse.ArgumentParser:
    p = flags.make_parser("pseudonyms", __doc__)
    p.add_argument("--key", required=True, type=Path, metavar="FILE", help="the key that prepare made or was given")
    p.add_argument("--pairs", action="store_true", help="print subject,pseudonym")
    p.add_argument("ids", metavar="FILE", help="ids, one per line; - reads standard input")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.pseudonyms", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
