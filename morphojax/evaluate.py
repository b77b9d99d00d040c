"""Scores a segmentation run on a split of a prepared dataset, on the native grids.

    morphojax evaluate --run=runs/segment_sax --split=test

Writes to --output (default: <run>/evaluation):
    scores_<split>.csv      per subject, plane, phase and structure: Dice, surface Dice, HD95, ASSD,
                            and the sizes of reference and prediction
    positions_<split>.csv   per subject, phase and structure of a short axis: Dice in the basal,
                            middle and apical third of the slices with the left ventricle
    measures_<split>.csv    per subject and plane: clinical measures of reference and prediction;
                            the biplane volume of the left atrium where both long-axis planes are
                            scored
    agreement_<split>.csv   per measure: Bland-Altman bias and limits, mean absolute error,
                            Pearson's r
    summary_<split>.csv     per plane, structure and phase: mean and 95 % bootstrap interval over
                            subjects; without ids
    summary_<split>.json    the same, with the run, checkpoint and weights
    cases_<split>.npz       per subject and plane: the middle slice of the left ventricle at ED,
                            with reference and prediction, for the pictures of reports
    dice_<split>.png (dice_<plane>_<split>.png with several planes), agreement_<split>.png,
    worst_<split>.png       figures, in which a subject appears as its index
    report_<split>.html     all of it on one page, with the run and its training: see
                            `morphojax report`, which also puts runs side by side

A structure is scored where the run predicts it and it is annotated in that stack.
Conventions: evaluation/overlap.py, evaluation/positions.py.
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import flags
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation.overlap import TOLERANCE_MM


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("evaluate", __doc__)
    made.add_argument(
        "--run",
        required=True,
        action="append",
        help="directory of a segmentation run; repeat it with a run of another plane for measures that need two planes",
    )
    made.add_argument("--split", default="test", choices=SPLITS, help="subjects to score (default: test)")
    made.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the dataset of the run's config)")
    made.add_argument("--output", help="folder for the results (default: <first run>/evaluation)")
    flags.add_checkpoint(made)
    flags.add_largest_component(made)
    made.add_argument("--heart_rate", metavar="COLUMN", help="table column in beats per minute, for cardiac output")
    made.add_argument(
        "--tolerance_mm",
        type=float,
        default=TOLERANCE_MM,
        metavar="MM",
        help="distance between surfaces that the surface Dice accepts (default: %(default)g)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.evaluate", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
