"""Raw cohort -> prepared dataset, once per cohort.

    morphojax prepare --source=acdc --input=DIR --output=DIR
    morphojax prepare --source=synthetic --input=DIR --output=DIR --subjects=64
    morphojax prepare --source=acdc --input=DIR --output=DIR --dry-run
    morphojax prepare --source=ukb_dicom --input=DIR --output=DIR --convert-only

An interrupted run continues when the same command is run again. At the end it prints a summary.
The output folder then also holds `report.csv` (by subject: what was assumed, and who was left
out) and `contact_sheet.png` (check that the hearts are inside the frame, and the labels on them).

Many machines can prepare a large cohort. Each runs the command with --shard=I/N, in any order and
at once; then the same command without --shard does what is left and assembles the dataset, to the
same bytes as on one machine. --launcher=submitit --shards=N does all of this on SLURM.

Subjects are named by pseudonyms, which identify nobody without the key: the file `morphojax.key`
in the input folder, made if absent, or --key. `morphojax pseudonyms` translates ids.
The synthetic cohort keeps its ids.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import anatomy, cohort_flags, flags, jobs
from morphojax.cohort_flags import SOURCES


def _words(text: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(w) for w in text.split(","))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 3/100")
    return number, of


def parser() -> argparse.ArgumentParser:
    p = flags.make_parser("prepare", __doc__)
    p.add_argument("--source", required=True, help=f"layout of the cohort: {', '.join(SOURCES)}")
    p.add_argument("--input", required=True, type=Path, help="folder of the cohort (synthetic: made there if absent)")
    p.add_argument("--output", required=True, type=Path, help="folder of the dataset: empty, absent or interrupted")
    _add_image_flags(p)
    _add_split_flags(p)
    cohort_flags.add_table(p)
    _add_privacy_flags(p)
    _add_run_flags(p)
    jobs.add_flags(p)
    p.add_argument("--subjects", type=int, default=64, help="synthetic: how many to make; default 64")
    p.add_argument("--seed", type=int, default=0, help="synthetic: seed of the cohort; default 0")
    return p


def _add_image_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--planes", type=_words, default=("sax",), help=f"among {','.join(anatomy.PLANES)}; default sax")
    p.add_argument(
        "--frames", default="phases", metavar="phases|N|all",
        help="frames kept of a cine: ED, mid and ES (phases, the default); with a number N, also N frames evenly "
        "spaced over the cycle; or all",
    )  # fmt: skip
    p.add_argument("--spacing", type=float, default=1.5, help="in-plane pixel size in mm; default 1.5")
    p.add_argument("--size", type=int, default=128, help="pixels along each side of the crop; default 128")
    p.add_argument(
        "--percentiles", type=_numbers, metavar="LOW,HIGH",
        help="intensity percentiles of the whole stack that become black and white; default 0.5,99.5",
    )  # fmt: skip
    p.add_argument(
        "--measure", action="store_true",
        help="measure volumes, ejection fractions, mass and wall thickness on the subjects' own labels, and add them "
        "to the table",
    )  # fmt: skip


def _add_split_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--splits", type=Path, metavar="FILE.csv|official",
        help="columns subject,split (train, val, test, or none to leave out), listing every subject; official: as the "
        "cohort's authors published it (mnms, mnms2); default: by a hash of the subject's id",
    )  # fmt: skip
    p.add_argument(
        "--split_fractions", type=_numbers, metavar="TRAIN,VAL,TEST",
        help="fractions of the split by hash; default 0.7,0.15,0.15",
    )  # fmt: skip
    p.add_argument("--split_seed", type=int, default=0, help="seed of the split by hash; default 0")


def _add_privacy_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--exclude", type=Path, metavar="FILE",
        help="ids of subjects who withdrew, one per line: they are left out of everything",
    )  # fmt: skip
    p.add_argument(
        "--key", metavar="FILE|none",
        help="key of the pseudonyms, made if absent; none: keep the ids (for public cohorts); default morphojax.key in "
        "the input folder",
    )  # fmt: skip


def _add_run_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--workers", type=int, help="processes; default one per CPU")
    p.add_argument(
        "--convert-only", action="store_true",
        help="ukb_dicom: write UK Biobank's NIfTI layout to the output folder instead, a folder per subject",
    )  # fmt: skip
    p.add_argument("--strict", action="store_true", help="stop at the first subject that cannot be read")
    p.add_argument("--dry-run", action="store_true", help="read everything, print what would be written, write nothing")
    p.add_argument(
        "--shard", type=_shard, metavar="I/N",
        help="prepare every N-th subject from the I-th on, and assemble nothing; when all N are done, run again "
        "without --shard",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)  # for --launcher, which starts the command again
    return flags.run("morphojax.commands.prepare", args)


if __name__ == "__main__":
    sys.exit(main())
