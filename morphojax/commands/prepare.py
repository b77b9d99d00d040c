"""Makes a dataset of a raw cohort, as the flags say."""

import argparse
from pathlib import Path

from morphojax import jobs
from morphojax.commands.contact_sheet import draw_contact_sheet
from morphojax.commands.source import make_source
from morphojax.data.geometry import Grid
from morphojax.data.prepare import assemble, texts
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.conversion import convert
from morphojax.data.prepare.dry_run import plan
from morphojax.data.prepare.pseudonyms import KEY_FILE, Pseudonyms
from morphojax.data.prepare.spec import PERCENTILES, SPLIT_FRACTIONS, PrepareSpec
from morphojax.data.prepare.withdrawals import Without, read_list
from morphojax.data.sources import CohortError, Source
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.store.splits import SPLITS
from morphojax.exit_codes import COMPLETE, FAILED
from morphojax.measuring import MORPHOMETRICS

KEEP_IDS = "none"  # instead of a key file
COMMAND = "morphojax.prepare"  # what a job of --launcher runs


def run(args: argparse.Namespace) -> int:
    text, code = _prepare(args)
    print(text)
    return code


def _prepare(args: argparse.Namespace) -> tuple[str, int]:
    """Does what the flags ask for; returns the text to print at the end, and the exit code."""
    _check_flags(args)
    if args.source == "synthetic" and not args.dry_run and not args.shard:
        _make_synthetic(args.input, args.subjects, args.seed, args.workers)
    source = make_source(args.source, args.input, args.frames, args)
    excluded = read_list(args.exclude) if args.exclude else frozenset()
    if args.convert_only:
        zips = _check_conversion(args, source)
        converted = convert(zips, args.output, args.planes, args.workers, args.strict)
        return texts.describe_conversion(converted, args.output), COMPLETE
    source.subjects()  # raises for a folder without a cohort, before a key is made in it
    pseudonyms = _pseudonyms(args)
    if excluded:
        source = Without(source, excluded)
        present = source.count_present()
        print(f"{present} subjects excluded, {len(excluded) - present} ids of the list are not in the cohort")
    spec = _prepare_spec(args, source, pseudonyms)
    if args.dry_run:
        planned = plan(spec, args.workers)
        failed = not any(planned.splits.values()) or (args.strict and bool(planned.failures))
        return texts.describe_plan(planned, args.output), FAILED if failed else COMPLETE
    if args.shard:
        shard = assemble.prepare_shard(spec, args.shard, args.workers, args.strict)
        return texts.describe_shard(args.shard, shard), COMPLETE
    if args.launcher:
        _launch(spec, args)
    summary = assemble.prepare(spec, args.workers, args.strict, hidden=excluded, finish=draw_contact_sheet)
    return texts.describe_dataset(summary), COMPLETE


def _check_flags(args: argparse.Namespace) -> None:
    """Raises PrepareError for flags that cannot be combined, or need one another."""
    if (args.shard or args.launcher) and (args.dry_run or args.convert_only):
        raise PrepareError("--shard and --launcher cannot be combined with --dry-run or --convert-only")
    if args.shard and args.launcher:
        raise PrepareError("--shard is one job, --launcher starts them all: leave out one")
    if bool(args.launcher) != bool(args.shards) or (args.slurm and not args.launcher):
        raise PrepareError("--launcher=submitit and --shards=N go together, and --slurm with them")
    if args.shards is not None and args.shards < 1:
        raise PrepareError(f"--shards={args.shards}: must be at least 1")
    jobs.options(args.slurm)
    if args.percentiles and len(args.percentiles) != 2:
        raise PrepareError("--percentiles takes two numbers, such as 0.5,99.5")
    if args.split_fractions and len(args.split_fractions) != 3:
        raise PrepareError("--split_fractions takes three numbers, such as 0.7,0.15,0.15")


def _check_conversion(args: argparse.Namespace, source: Source) -> UkbDicom:
    if args.exclude or args.dry_run or args.measure:
        raise PrepareError(
            "--convert-only cannot be combined with --dry-run, --measure or --exclude; "
            "remove the zips of subjects who withdrew"
        )
    if not isinstance(source, UkbDicom):
        raise PrepareError(f"--convert-only: the source {args.source} is NIfTI already; it is for ukb_dicom")
    return source


def _make_synthetic(root: Path, subjects: int, seed: int, workers: int | None) -> None:
    """Generates the synthetic cohort where it is absent or unfinished."""
    try:
        Synthetic(root).subjects()
    except CohortError:
        generate(root, subjects=subjects, seed=seed, workers=workers)


def _pseudonyms(args: argparse.Namespace) -> Pseudonyms | None:
    """The pseudonyms that --key asks for; None to keep ids, or in a dry run without a key."""
    if args.key == KEEP_IDS or (args.key is None and args.source == "synthetic"):
        return None
    path = Path(args.key) if args.key else args.input / KEY_FILE
    if args.key and path.resolve().is_relative_to(args.output.resolve()):
        raise PrepareError(f"--key={path}: lies in the output folder, and would be published with the dataset")
    if args.dry_run and not path.exists():
        return None
    pseudonyms, made = Pseudonyms.read_or_make(path)
    if made:
        print(f"new key of the pseudonyms: {path}; keep it with the raw data, and a copy in a safe place")
    return pseudonyms


def _prepare_spec(args: argparse.Namespace, source: Source, pseudonym: Pseudonyms | None) -> PrepareSpec:
    return PrepareSpec(
        source,
        args.output,
        args.source,
        Grid(args.spacing, args.size),
        args.planes,
        args.percentiles or PERCENTILES,
        split_file=args.splits,
        split_fractions=dict(zip(SPLITS, args.split_fractions, strict=True))
        if args.split_fractions
        else SPLIT_FRACTIONS,
        split_seed=args.split_seed,
        pseudonym=pseudonym,
        measured=MORPHOMETRICS if args.measure else None,
    )


def _launch(spec: PrepareSpec, args: argparse.Namespace) -> None:
    """Runs the shards as jobs and waits; with --strict, a failed job raises PrepareError.

    The checks of the assembling run come first, so jobs are not submitted in vain.
    """
    spec.table()
    spec.subject_splits()
    spec.claim()
    n, output = args.shards, spec.output.resolve()
    argvs = [[*jobs.without_flags(args.argv), f"--shard={i}/{n}"] for i in range(1, n + 1)]
    failed = jobs.run(COMMAND, argvs, output.with_name(f"{output.name}.jobs"), jobs.options(args.slurm))
    for number, log in failed.items():
        print(f"shard {number}/{n} failed; its log is {log}")
    if failed and args.strict:
        raise PrepareError(f"{len(failed)} of {n} shards failed: {', '.join(map(str, failed))}")
