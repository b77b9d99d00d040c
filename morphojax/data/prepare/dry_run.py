"""What `prepare` would write, without writing it."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from morphojax.data.prepare.spec import LEFT_OUT, PrepareSpec
from morphojax.data.prepare.workers import map_subjects
from morphojax.data.store import splits as splitting
from morphojax.data.store.records import SHARD_OVERHEAD, SHARD_RECORDS
from morphojax.progress import bar as progress_bar


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `prepare` would write. `splits` and `planes` count as the manifest does."""

    splits: Mapping[str, int]
    planes: Mapping[str, Mapping[str, int]]
    columns: int
    bytes: int  # estimated
    failures: Mapping[int, str]  # reason, by index among the source's subjects
    left_out: int
    warnings: Mapping[str, int]


def plan(spec: PrepareSpec, workers: int | None = None, progress: bool = True) -> Plan:
    """What `prepare` would write with the same spec. Raises what it would raise; writes nothing.

    It reads every image: which frames of a cine are kept, and whether a label is usable, depends
    on the voxels.
    """
    splits, _ = spec.subject_splits()
    ids, table = tuple(splits), spec.table()
    spec.is_begun()
    index, failures, warnings = {i: n for n, i in enumerate(ids)}, {}, Counter[str]()
    subjects, size, measured = Counter[str](), 0, set[str]()
    planes = {plane: Counter(subjects=0, stacks=0, slices=0, labelled_stacks=0) for plane in spec.planes}
    todo = [i for i in ids if splits[i] != LEFT_OUT]
    with progress_bar(total=len(todo), desc="dry run", unit="subject", show=progress) as bar:
        for subject, estimate in map_subjects(spec.partials.estimate, todo, workers):
            bar.update()
            if isinstance(estimate, str):
                failures[index[subject]] = estimate
                continue
            subjects[splits[subject]] += 1
            size += estimate["bytes"]
            warnings.update(set(estimate["warnings"]))
            measured.update(estimate["measured"])
            for plane, (stacks, slices, labelled) in estimate["planes"].items():
                planes[plane].update(subjects=1, stacks=stacks, slices=slices, labelled_stacks=labelled)
    for counts in planes.values():
        size += SHARD_OVERHEAD * sum(-(-counts[records] // SHARD_RECORDS) for records in ("slices", "stacks"))
    return Plan(
        splits={s: subjects[s] for s in splitting.SPLITS},
        planes=planes,
        columns=(len(table[1].columns) if table else 0) + len(measured),
        bytes=size,
        failures=dict(sorted(failures.items())),
        left_out=len(ids) - len(todo),
        warnings=dict(sorted(warnings.items())),
    )
