"""Raw cohort -> prepared dataset, once per cohort.

    python -m morphojax.prepare --source=acdc --input=DIR --output=DIR
    python -m morphojax.prepare --source=synthetic --input=DIR --output=DIR --subjects=64
    python -m morphojax.prepare --source=acdc --input=DIR --output=DIR --dry-run
    python -m morphojax.prepare --source=ukb_dicom --input=DIR --output=DIR --convert-only --planes=sax,la_2ch,la_4ch

Interrupted, it continues when run again with the same flags. It ends with a summary, `report.csv` (what was assumed or left
out, by subject) and `contact_sheet.png` (look at it: are the hearts inside the frame, and the labels on the hearts?).

Many machines share the work of a large cohort: each runs the command with --shard=I/N, in any order and at once, and then the plain command
does what is left and assembles, to the same bytes. --launcher=submitit --shards=N does all of that on SLURM.

Subjects are named by pseudonyms, which tell nobody without the key who they are: `morphojax.key` in the input folder, made there if absent,
or --key. `python -m morphojax.pseudonyms` translates. The synthetic cohort keeps its ids.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import anatomy, cohort_flags, jobs
from morphojax.data.geometry import Grid
from morphojax.data.inspection import survey
from morphojax.data.prepare import assemble, exclusion, spec
from morphojax.data.prepare.assemble import Share, Summary
from morphojax.data.prepare.conversion import Converted, convert
from morphojax.data.prepare.dry_run import Plan, plan
from morphojax.data.prepare.partials import PrepareError
from morphojax.data.prepare.pseudonyms import KEY_FILE, Pseudonyms
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources import SOURCES, CohortError, Source
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import figures
from morphojax.measuring import MORPHOMETRICS


def _words(text: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(w) for w in text.split(","))


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    share = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= share[0] <= share[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 3/100")
    return share


KEEP = "none"  # in place of a key
COMMAND = "morphojax.prepare"  # for jobs: this module may be __main__


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m morphojax.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--source", required=True, choices=sorted(SOURCES), help="layout of the cohort")
    p.add_argument("--input", required=True, type=Path, help="folder of the cohort (synthetic: made there if absent)")
    p.add_argument("--output", required=True, type=Path, help="folder of the dataset: empty, absent or interrupted")
    p.add_argument("--planes", type=_words, default=("sax",), help=f"among {','.join(anatomy.PLANES)}; default sax")
    p.add_argument(
        "--frames", default="phases", metavar="phases|N|all",
        help="of a cine: ED, mid and ES (phases, default), and besides N frames evenly spaced over the cycle, or all",
    )  # fmt: skip
    p.add_argument("--spacing", type=float, default=1.5, help="in-plane pixel in mm; default 1.5")
    p.add_argument("--size", type=int, default=128, help="pixels along each side of the crop; default 128")
    p.add_argument(
        "--percentiles", type=_numbers, default=spec.PERCENTILES, metavar="LOW,HIGH",
        help="of the whole stack, which become black and white; default 0.5,99.5",
    )  # fmt: skip
    p.add_argument(
        "--splits", type=Path, metavar="FILE.csv|official",
        help="columns subject,split (train, val, test, or none to leave out), listing every subject; official: as the cohort's makers "
        "published it (mnms, mnms2); default: by hash",
    )  # fmt: skip
    p.add_argument(
        "--split_fractions", type=_numbers, default=tuple(spec.SPLIT_FRACTIONS.values()), metavar="TRAIN,VAL,TEST",
        help="shares of the split by hash of the subject's id; default 0.7,0.15,0.15",
    )  # fmt: skip
    p.add_argument("--split_seed", type=int, default=0, help="of the split by hash; default 0")
    cohort_flags.add_table(p)
    p.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="ids of those who withdrew, one a line: they are left out of everything",
    )
    p.add_argument(
        "--key", metavar="FILE|none",
        help=f"key of the pseudonyms, made if absent; none: keep the ids (of a public cohort); default {KEY_FILE} in the input folder",
    )  # fmt: skip
    p.add_argument(
        "--measure", action="store_true",
        help="measure volumes, ejection fractions, mass and wall thickness on the subjects' own labels, as columns of the table",
    )  # fmt: skip
    p.add_argument("--workers", type=int, help="processes; default one per CPU")
    p.add_argument(
        "--convert-only", action="store_true",
        help="ukb_dicom: write the UK Biobank NIfTI layout to the output folder instead, a folder per subject",
    )  # fmt: skip
    p.add_argument("--strict", action="store_true", help="stop at the first subject that cannot be read")
    p.add_argument("--dry-run", action="store_true", help="read everything, say what would be written, write nothing")
    p.add_argument(
        "--shard", type=_share, metavar="I/N",
        help="prepare every N-th subject from the I-th on, and assemble nothing; run again without --shard when all N are done",
    )  # fmt: skip
    jobs.add_flags(p)
    p.add_argument("--subjects", type=int, default=64, help="synthetic: how many to make; default 64")
    p.add_argument("--seed", type=int, default=0, help="synthetic: seed of the cohort; default 0")
    return p


def describe(summary: Summary) -> str:
    """The closing summary: counts only, so that it may be kept in a log."""
    manifest, counts = summary.manifest, summary.manifest.counts
    lines = [
        f"{summary.output}: {manifest.source}, {manifest.grid.size} x {manifest.grid.size} pixels of "
        f"{manifest.grid.spacing_mm:g} mm, fingerprint {manifest.fingerprint}",
        "subjects  " + ", ".join(f"{counts['subjects'][s]} {s}" for s in SPLITS),
    ]
    for plane, found in counts["planes"].items():
        cut = 100 * found["label_voxels_cut"] / max(found["label_voxels"], 1)
        labelled = 100 * found["labelled_stacks"] / max(found["stacks"], 1)
        lines.append(
            f"{plane:<9} {found['subjects']} subjects, {found['stacks']} stacks, {found['slices']} slices; {labelled:.0f} % of "
            f"stacks labelled ({', '.join(manifest.labelled[plane]) or 'nothing'}); the crop cuts off {cut:.3g} % of label voxels"
        )
    lines.append(f"table     {len(manifest.schema.columns)} columns in {len(manifest.schema.groups)} groups")
    for key, text in (
        ("failed", "subjects could not be read and are left out"),
        ("left_out", "subjects left out by the split file"),
        ("without_row", "subjects without a table row: all values missing"),
        ("rows_without_images", "rows of the table or split file without images: not used"),
    ):
        if counts[key]:
            lines.append(f"{counts[key]:>9} {text}")
    lines += [f"{n:>9} x warning: {message}" for message, n in manifest.warnings.items()]
    return "\n".join(lines)


def describe_plan(found: Plan, output: Path) -> str:
    """What would be written, in counts; of subjects that cannot be read the number in the order of the ids, never the id."""
    lines = [
        f"{output}: nothing was written; about {found.bytes / 1e6:.3g} MB would be",
        "subjects  " + ", ".join(f"{found.splits[s]} {s}" for s in SPLITS),
    ]
    for plane, n in found.planes.items():
        lines.append(
            f"{plane:<9} {n['subjects']} subjects, {n['stacks']} stacks, {n['slices']} slices; {n['labelled_stacks']} stacks labelled"
        )
    lines.append(f"table     {found.columns} columns")
    if found.left_out:
        lines.append(f"{found.left_out:>9} subjects left out by the split file")
    if found.failures:
        numbers = " ".join(f"#{i}" for i in found.failures)
        lines.append(
            f"{len(found.failures):>9} subjects cannot be read and would be left out: {numbers}; inspect --ids says why"
        )
    return "\n".join([*lines, *(f"{n:>9} x warning: {message}" for message, n in found.warnings.items())])


def describe_conversion(found: Converted, output: Path) -> str:
    lines = [f"{output}: {found.written} subjects written, {found.there_already} there already"]
    if found.failed:
        lines.append(f"{found.failed:>9} subjects could not be read and are left out: {output / 'report.csv'} says why")
    return "\n".join([*lines, *(f"{n:>9} x warning: {message}" for message, n in found.warnings.items())])


def describe_share(share: tuple[int, int], found: Share) -> str:
    again = ", which are tried again without --shard" if found.failed else ""
    return f"shard {share[0]}/{share[1]}: {found.done} subjects done, {found.failed} failed{again}"


def _make_if_absent(root: Path, subjects: int, seed: int, workers: int | None) -> None:
    """A whole cohort is taken as it is; one that is absent or unfinished is made."""
    try:
        Synthetic(root).subjects()
    except CohortError:
        generate(root, subjects=subjects, seed=seed, workers=workers)


def _pseudonym(key: str | None, root: Path, output: Path, source: str, make: bool) -> Pseudonyms | None:
    """What --key asks for; without `make`, of a key that is not there yet, None."""
    if key == KEEP or (key is None and source == "synthetic"):
        return None
    path = Path(key) if key else root / KEY_FILE
    if key and path.resolve().is_relative_to(output.resolve()):
        raise PrepareError(f"--key={path}: lies in the output, which would give it away with the dataset")
    if not make and not path.exists():
        return None
    pseudonym, made = Pseudonyms.read_or_make(path)
    if made:
        print(f"new key of the pseudonyms: {path}; keep it with the raw data, and a copy safe")
    return pseudonym


def _refuse_together(flags: argparse.Namespace) -> None:
    """Raises PrepareError for flags that say nothing together, or nothing alone."""
    if (flags.shard or flags.launcher) and (flags.dry_run or flags.convert_only):
        raise PrepareError("--shard and --launcher know no --dry-run and no --convert-only")
    if flags.shard and flags.launcher:
        raise PrepareError("--shard is one job, --launcher starts them all: leave out one")
    if bool(flags.launcher) != bool(flags.shards) or (flags.slurm and not flags.launcher):
        raise PrepareError("--launcher=submitit and --shards=N go together, and --slurm with them")
    if flags.shards is not None and flags.shards < 1:
        raise PrepareError(f"--shards={flags.shards}: at least 1")
    jobs.options(flags.slurm)


def _order(flags: argparse.Namespace, source: Source, pseudonym: Pseudonyms | None) -> PrepareSpec:
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


def _launch(order: PrepareSpec, flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Runs the shards as jobs; a failed one is left to the run that assembles, or with --strict raises PrepareError. Nothing is submitted
    that the end would refuse."""
    order.table()
    order.subject_splits()
    order.claim()
    n, output = flags.shards, order.output.resolve()
    argvs = [[*jobs.without_flags(argv), f"--shard={i}/{n}"] for i in range(1, n + 1)]
    failed = jobs.run(COMMAND, argvs, output.with_name(f"{output.name}.jobs"), jobs.options(flags.slurm))
    for number, log in failed.items():
        print(f"shard {number}/{n} failed; its log is {log}")
    if failed and flags.strict:
        raise PrepareError(f"{len(failed)} of {n} shards failed: {', '.join(map(str, failed))}")


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    try:
        _refuse_together(flags)
        if len(flags.percentiles) != 2:
            raise PrepareError("--percentiles takes two numbers, such as 0.5,99.5")
        if len(flags.split_fractions) != 3:
            raise PrepareError("--split_fractions takes three numbers, such as 0.7,0.15,0.15")
        if flags.source == "synthetic" and not flags.dry_run and not flags.shard:
            _make_if_absent(flags.input, flags.subjects, flags.seed, flags.workers)
        source = cohort_flags.source(flags.source, flags.input, flags.frames, flags)
        listed = exclusion.read_list(flags.exclude) if flags.exclude else frozenset()
        if flags.convert_only and (listed or flags.dry_run or flags.measure):
            raise PrepareError(
                "--convert-only knows no --dry-run or --measure, nor --exclude: remove the zips of those who withdrew"
            )
        if flags.convert_only:
            if not isinstance(source, UkbDicom):
                raise PrepareError(f"--convert-only: the source {flags.source} is NIfTI already; it is for ukb_dicom")
            print(
                describe_conversion(
                    convert(source, flags.output, flags.planes, flags.workers, flags.strict), flags.output
                )
            )
            return 0
        source.subjects()  # no key for a folder that holds no cohort
        pseudonym = _pseudonym(flags.key, flags.input, flags.output, flags.source, make=not flags.dry_run)
        if listed:
            source = exclusion.Without(source, listed)
            present = source.present()
            print(f"{present} subjects excluded, {len(listed) - present} ids of the list are not in the cohort")
        order = _order(flags, source, pseudonym)
        if flags.dry_run:
            found = plan(order, flags.workers)
            print(describe_plan(found, flags.output))
            return int(not any(found.splits.values()) or (flags.strict and bool(found.failures)))
        if flags.shard:
            share = assemble.prepare_share(order, flags.shard, flags.workers, flags.strict)
            print(describe_share(flags.shard, share))
            return 0
        if flags.launcher:
            _launch(order, flags, sys.argv[1:] if argv is None else argv)
        summary = assemble.prepare(order, flags.workers, flags.strict, hidden=listed)
        tiles = survey.tiles(Dataset.open(flags.output))
        figures.contact_sheet(flags.output / "contact_sheet.png", tiles, columns=survey.SHEET_COLUMNS)
    except (PrepareError, CohortError, ValueError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    print(describe(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
