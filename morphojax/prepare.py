"""Raw cohort -> prepared dataset, once per cohort.

    python -m morphojax.prepare --source=acdc --input=DIR --output=DIR
    python -m morphojax.prepare --source=synthetic --input=DIR --output=DIR --subjects=64
    python -m morphojax.prepare --source=acdc --input=DIR --output=DIR --dry-run
    python -m morphojax.prepare --source=ukb_dicom --input=DIR --output=DIR --convert-only

An interrupted run continues when the same command is run again. At the end it prints a summary.
The output folder then also holds `report.csv` (by subject: what was assumed, and who was left
out) and `contact_sheet.png` (check that the hearts are inside the frame, and the labels on them).

Many machines can prepare a large cohort. Each runs the command with --shard=I/N, in any order and
at once; then the same command without --shard does what is left and assembles the dataset, to the
same bytes as on one machine. --launcher=submitit --shards=N does all of this on SLURM.

Subjects are named by pseudonyms, which identify nobody without the key: the file `morphojax.key`
in the input folder, made if absent, or --key. `python -m morphojax.pseudonyms` translates ids.
The synthetic cohort keeps its ids.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import anatomy, cohort_flags, jobs
from morphojax.data.geometry import Grid
from morphojax.data.inspection import survey
from morphojax.data.prepare import assemble, texts
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.conversion import convert
from morphojax.data.prepare.dry_run import plan
from morphojax.data.prepare.pseudonyms import KEY_FILE, Pseudonyms
from morphojax.data.prepare.spec import PERCENTILES, SPLIT_FRACTIONS, PrepareSpec
from morphojax.data.prepare.withdrawals import Without, read_list
from morphojax.data.sources import SOURCES, CohortError, Source
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import figures
from morphojax.measuring import MORPHOMETRICS

KEEP_IDS = "none"  # instead of a key file
COMMAND = "morphojax.prepare"  # what a job of --launcher runs; __name__ may be __main__


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
    p = argparse.ArgumentParser(
        prog="python -m morphojax.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--source", required=True, choices=sorted(SOURCES), help="layout of the cohort")
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
        "--percentiles", type=_numbers, default=PERCENTILES, metavar="LOW,HIGH",
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
        "--split_fractions", type=_numbers, default=tuple(SPLIT_FRACTIONS.values()), metavar="TRAIN,VAL,TEST",
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
        help=f"key of the pseudonyms, made if absent; none: keep the ids (for public cohorts); default {KEY_FILE} in "
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


def _check_flags(flags: argparse.Namespace) -> None:
    """Raises PrepareError for flags that cannot be combined, or need one another."""
    if (flags.shard or flags.launcher) and (flags.dry_run or flags.convert_only):
        raise PrepareError("--shard and --launcher cannot be combined with --dry-run or --convert-only")
    if flags.shard and flags.launcher:
        raise PrepareError("--shard is one job, --launcher starts them all: leave out one")
    if bool(flags.launcher) != bool(flags.shards) or (flags.slurm and not flags.launcher):
        raise PrepareError("--launcher=submitit and --shards=N go together, and --slurm with them")
    if flags.shards is not None and flags.shards < 1:
        raise PrepareError(f"--shards={flags.shards}: must be at least 1")
    jobs.options(flags.slurm)
    if len(flags.percentiles) != 2:
        raise PrepareError("--percentiles takes two numbers, such as 0.5,99.5")
    if len(flags.split_fractions) != 3:
        raise PrepareError("--split_fractions takes three numbers, such as 0.7,0.15,0.15")


def _check_conversion(flags: argparse.Namespace, source: Source) -> UkbDicom:
    if flags.exclude or flags.dry_run or flags.measure:
        raise PrepareError(
            "--convert-only cannot be combined with --dry-run, --measure or --exclude; "
            "remove the zips of subjects who withdrew"
        )
    if not isinstance(source, UkbDicom):
        raise PrepareError(f"--convert-only: the source {flags.source} is NIfTI already; it is for ukb_dicom")
    return source


def _make_synthetic(root: Path, subjects: int, seed: int, workers: int | None) -> None:
    """Generates the synthetic cohort where it is absent or unfinished."""
    try:
        Synthetic(root).subjects()
    except CohortError:
        generate(root, subjects=subjects, seed=seed, workers=workers)


def _pseudonyms(flags: argparse.Namespace) -> Pseudonyms | None:
    """The pseudonyms that --key asks for; None to keep ids, or in a dry run without a key."""
    if flags.key == KEEP_IDS or (flags.key is None and flags.source == "synthetic"):
        return None
    path = Path(flags.key) if flags.key else flags.input / KEY_FILE
    if flags.key and path.resolve().is_relative_to(flags.output.resolve()):
        raise PrepareError(f"--key={path}: lies in the output folder, and would be published with the dataset")
    if flags.dry_run and not path.exists():
        return None
    pseudonyms, made = Pseudonyms.read_or_make(path)
    if made:
        print(f"new key of the pseudonyms: {path}; keep it with the raw data, and a copy in a safe place")
    return pseudonyms


def _prepare_spec(flags: argparse.Namespace, source: Source, pseudonym: Pseudonyms | None) -> PrepareSpec:
    return PrepareSpec(
        source,
        flags.output,
        flags.source,
        Grid(flags.spacing, flags.size),
        flags.planes,
        flags.percentiles,
        split_file=flags.splits,
        split_fractions=dict(zip(SPLITS, flags.split_fractions, strict=True)),
        split_seed=flags.split_seed,
        pseudonym=pseudonym,
        measured=MORPHOMETRICS if flags.measure else None,
    )


def _launch(spec: PrepareSpec, flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Runs the shards as jobs and waits; with --strict, a failed job raises PrepareError.

    The checks of the assembling run come first, so jobs are not submitted in vain.
    """
    spec.table()
    spec.subject_splits()
    spec.claim()
    n, output = flags.shards, spec.output.resolve()
    argvs = [[*jobs.without_flags(argv), f"--shard={i}/{n}"] for i in range(1, n + 1)]
    failed = jobs.run(COMMAND, argvs, output.with_name(f"{output.name}.jobs"), jobs.options(flags.slurm))
    for number, log in failed.items():
        print(f"shard {number}/{n} failed; its log is {log}")
    if failed and flags.strict:
        raise PrepareError(f"{len(failed)} of {n} shards failed: {', '.join(map(str, failed))}")


def _run(flags: argparse.Namespace, argv: Sequence[str]) -> tuple[str, int]:
    """Does what the flags ask for; returns the text to print at the end, and the exit code."""
    _check_flags(flags)
    if flags.source == "synthetic" and not flags.dry_run and not flags.shard:
        _make_synthetic(flags.input, flags.subjects, flags.seed, flags.workers)
    source = cohort_flags.source(flags.source, flags.input, flags.frames, flags)
    excluded = read_list(flags.exclude) if flags.exclude else frozenset()
    if flags.convert_only:
        zips = _check_conversion(flags, source)
        converted = convert(zips, flags.output, flags.planes, flags.workers, flags.strict)
        return texts.describe_conversion(converted, flags.output), 0
    source.subjects()  # raises for a folder without a cohort, before a key is made in it
    pseudonyms = _pseudonyms(flags)
    if excluded:
        source = Without(source, excluded)
        present = source.count_present()
        print(f"{present} subjects excluded, {len(excluded) - present} ids of the list are not in the cohort")
    spec = _prepare_spec(flags, source, pseudonyms)
    if flags.dry_run:
        planned = plan(spec, flags.workers)
        failed = not any(planned.splits.values()) or (flags.strict and bool(planned.failures))
        return texts.describe_plan(planned, flags.output), int(failed)
    if flags.shard:
        shard = assemble.prepare_shard(spec, flags.shard, flags.workers, flags.strict)
        return texts.describe_shard(flags.shard, shard), 0
    if flags.launcher:
        _launch(spec, flags, argv)
    summary = assemble.prepare(spec, flags.workers, flags.strict, hidden=excluded, finish=_draw_contact_sheet)
    return texts.describe_dataset(summary), 0


def _draw_contact_sheet(folder: Path) -> None:
    tiles = survey.tiles(Dataset.open(folder))
    figures.contact_sheet(folder / "contact_sheet.png", tiles, columns=survey.SHEET_COLUMNS)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        text, code = _run(parser().parse_args(argv), argv)
    except (PrepareError, CohortError, ValueError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
