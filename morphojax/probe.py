"""Predicts a column of the table from a run's image encoder, and scores the test subjects.

    morphojax probe --run=runs/pretrain_sax --label=lv_ef --frames=ED,ES
    morphojax probe --run=runs/pretrain_sax --export

A linear and a nearest-neighbour probe are fitted to embeddings of the training subjects, with the
encoder frozen. Their hyperparameters are chosen on the validation subjects, or by cross-validation
where these are few. They are scored on the test subjects, which neither step uses. Scores are AUC
(one class against the rest) and balanced accuracy for classes, mean absolute error and Pearson's r
for numbers, with 95 % bootstrap intervals over subjects.

The run may be of any task. A run of configs/probe.py, whose encoder and head were trained together,
needs no --label: its own predictions are scored.

Writes to --output (default: <run>/probe/<label>, with fraction and seed for a --fraction below 1):
    scores.json       per probe: scores and intervals; numbers of subjects, and whether the
                      encoder was trained on the label
    predictions.csv   per probe and test subject (by index): reference, prediction, probabilities
    roc.png or scatter.png
and with --export to <run>/embeddings:
    embeddings.parquet, and tensors.tsv, metadata.tsv for the projector of TensorBoard
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import flags


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("probe", __doc__)
    made.add_argument("--run", required=True, help="directory of a run, or one of the folders in its checkpoints/")
    made.add_argument("--label", help="column of the table to predict")
    made.add_argument("--dataset", help="prepared dataset, or `synthetic` (default: the dataset of the run's config)")
    made.add_argument("--output", help="folder for the scores (default: <run>/probe/<label>)")
    flags.add_checkpoint(made, default=None, help_default="best for a run of configs/probe.py, else last")
    made.add_argument("--frames", default="ED", help="frames whose embeddings are concatenated: ED (default), or ED,ES")
    made.add_argument("--slices", type=int, default=8, help="evenly spaced slices per frame (default: 8)")
    made.add_argument("--fraction", type=float, default=1.0, help="fraction of the training subjects (default: 1)")
    made.add_argument("--seed", type=int, default=0, help="for the choice of that fraction, and for the bootstrap")
    made.add_argument("--export", action="store_true", help="write the embeddings of all subjects")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.probe", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
