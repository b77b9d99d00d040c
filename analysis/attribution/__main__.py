"""Which table columns, and which image regions, does the similarity of a pretraining depend on?

    morphojax attribution --run=runs/pretrain_sax --split=val --output=results/attribution

The similarity is the cosine of the projected embeddings of a subject's images and of its own table
row, whatever config.table.control was in training. Four methods, described in docs/studies.md:
integrated gradients, permutation of columns and groups, groups replaced by the mean row of the
training subjects, and occlusion of the images.

Writes to --output:
    attribution.csv   method, kind, name, group, measure, n, mean, low, high: a row per method,
                      measure and column, group or structure; no row is of a single subject
    attribution.png   a bar per column
    attribution.md    the groups, the columns that matter most, and what this does not show
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import flags
from morphojax.data.store.splits import SPLITS


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("attribution", __doc__)
    made.add_argument("--run", required=True, help="directory of a pretraining, or one of its checkpoint folders")
    made.add_argument("--output", type=Path, required=True, help="folder for the files")
    made.add_argument("--split", default="val", choices=SPLITS, help="subjects to measure on (default: val)")
    made.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the dataset of the run's config)")
    made.add_argument("--objective", default="", help="image-table objective, where the run has several")
    made.add_argument("--steps", type=_positive, default=512, help="of integrated gradients (default: 512)")
    made.add_argument("--permutations", type=_positive, default=20, help="of each column and group (default: 20)")
    made.add_argument("--patch", type=_positive, default=8, help="side of an occluded patch in pixels (default: 8)")
    made.add_argument(
        "--occluded_subjects", type=_positive, default=16, help="at most so many subjects are occluded (default: 16)"
    )
    made.add_argument("--seed", type=int, default=0, help="of permutations and of the choice of occluded subjects")
    flags.add_checkpoint(made, default="last", help_default="last")
    return made


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("analysis.attribution.command", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
