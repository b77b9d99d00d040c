"""Reports evaluated segmentation runs as one HTML file, for a browser or a printer.

    morphojax report runs/segment_sax --output=report.html
    morphojax report runs/scratch runs/pretrained --output=compared.html

Run `morphojax evaluate` first: the report reads what it wrote to <run>/evaluation. No network runs.
One run: what it is, how it trained, its scores with intervals, agreement of clinical measures, its
best and worst cases, its failures. Several runs: scores side by side, paired differences to the
first run over the same test subjects, and all training curves in one figure.

The file shows subjects by their index. That of one run holds images of three of them: share it as
you may share those.
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import flags
from morphojax.data.store.splits import SPLITS


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("report", __doc__)
    made.add_argument("run", nargs="+", metavar="RUN", help="directory of an evaluated run; the first is the baseline")
    made.add_argument("--output", required=True, metavar="FILE", help="file to write; ends in .html")
    made.add_argument("--split", default="test", choices=SPLITS, help="evaluated split to report (default: test)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.report", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
