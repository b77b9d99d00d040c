"""What `prepare` prints about its results: counts, never a subject's name."""

from collections.abc import Mapping
from pathlib import Path

from morphojax.data.prepare.assemble import ShardSummary, Summary
from morphojax.data.prepare.conversion import Converted
from morphojax.data.prepare.dry_run import Plan
from morphojax.data.store.splits import SPLITS


def describe_dataset(summary: Summary) -> str:
    manifest, counts = summary.manifest, summary.manifest.counts
    lines = [
        f"{summary.output}: {manifest.source}, {manifest.grid.size} x {manifest.grid.size} pixels of "
        f"{manifest.grid.spacing_mm:g} mm, fingerprint {manifest.fingerprint}",
        _subjects(counts["subjects"]),
    ]
    for plane, n in counts["planes"].items():
        cut = 100 * n["label_voxels_cut"] / max(n["label_voxels"], 1)
        labelled = 100 * n["labelled_stacks"] / max(n["stacks"], 1)
        structures = ", ".join(manifest.labelled[plane]) or "nothing"
        lines.append(
            f"{_stacks(plane, n)}; {labelled:.0f} % of stacks labelled ({structures}); "
            f"the crop cuts off {cut:.3g} % of label voxels"
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
    return "\n".join([*lines, *_warnings(manifest.warnings)])


def describe_plan(plan: Plan, output: Path) -> str:
    """Subjects that cannot be read are listed by index, in the order of the ids."""
    lines = [
        f"{output}: nothing was written; about {plan.bytes / 1e6:.3g} MB would be",
        _subjects(plan.splits),
    ]
    lines += [f"{_stacks(plane, n)}; {n['labelled_stacks']} stacks labelled" for plane, n in plan.planes.items()]
    lines.append(f"table     {plan.columns} columns")
    if plan.left_out:
        lines.append(f"{plan.left_out:>9} subjects left out by the split file")
    if plan.failures:
        indices = " ".join(f"#{i}" for i in plan.failures)
        lines.append(
            f"{len(plan.failures):>9} subjects cannot be read and would be left out: {indices}; "
            "morphojax.inspect --ids says why"
        )
    return "\n".join([*lines, *_warnings(plan.warnings)])


def describe_conversion(converted: Converted, output: Path) -> str:
    lines = [f"{output}: {converted.written} subjects written, {converted.already_done} already there"]
    if converted.failed:
        lines.append(
            f"{converted.failed:>9} subjects could not be read and are left out: {output / 'report.csv'} says why"
        )
    return "\n".join([*lines, *_warnings(converted.warnings)])


def describe_shard(shard: tuple[int, int], summary: ShardSummary) -> str:
    again = ", which are tried again without --shard" if summary.failed else ""
    return f"shard {shard[0]}/{shard[1]}: {summary.done} subjects done, {summary.failed} failed{again}"


def _subjects(counts: Mapping[str, int]) -> str:
    return "subjects  " + ", ".join(f"{counts[split]} {split}" for split in SPLITS)


def _stacks(plane: str, counts: Mapping[str, int]) -> str:
    return f"{plane:<9} {counts['subjects']} subjects, {counts['stacks']} stacks, {counts['slices']} slices"


def _warnings(warnings: Mapping[str, int]) -> list[str]:
    return [f"{n:>9} x warning: {message}" for message, n in warnings.items()]
