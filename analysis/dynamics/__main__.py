"""Figures and tables of how runs trained: curves over images seen, and images to a given Dice.

    morphojax dynamics --runs=runs/segment_sax,runs/segment_sax_scratch --output=results
    morphojax dynamics --study=runs/studies/synthetic --output=results

Reads `config.json` and `metrics.jsonl` of every run. With --runs each run is a line, and all are
of one task. With --study each arm is a line: the mean over its finished runs, in a band from the
smallest to the largest value; files go to the folders `pretrain` and `segment`. Written where it
was logged:

    distance.svg        relative distance of the weights from the start of the run, by depth
    cka.svg, cka.csv    linear CKA of the encoder's features with those at the start, by level;
                        the table has the last value of each run
    dice.svg            Dice of the validation subjects, by structure
    images_to_dice.csv  images seen until the validation reached a Dice
    alignment_uniformity.svg   alignment against uniformity of a pretraining's embeddings
    effective_rank.svg, feature_rank.svg   effective rank of embeddings and of features
    grad_norm.svg       norm of the gradient by depth, mean of the logged steps
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import flags


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("dynamics", __doc__)
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--runs", help="directories of runs of one task, separated by commas")
    which.add_argument("--study", type=Path, help="folder of a study")
    made.add_argument("--output", type=Path, required=True, help="folder for the files")
    made.add_argument(
        "--x", choices=("images", "steps"), default="images", help="what curves are drawn over (default: images)"
    )
    made.add_argument("--dice", metavar="DICE,...", help="Dice that validation must reach (default: 0.5,0.7,0.8)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("analysis.dynamics.command", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
