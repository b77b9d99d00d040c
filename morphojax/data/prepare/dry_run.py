"""A preparation looked at before it is made."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from tqdm import tqdm

from morphojax.data.prepare.partials import results
from morphojax.data.prepare.spec import LEFT_OUT, PrepareSpec
from morphojax.data.store import splits as splitting
from morphojax.data.store.records import SHARD_OVERHEAD, SHARD_RECORDS


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `prepare` would do. `splits` and `planes` count as the manifest does; `failures` by index among the source's subjects."""

    splits: Mapping[str, int]
    planes: Mapping[str, Mapping[str, int]]
    columns: int
    bytes: int  # about
    failures: Mapping[int, str]
    left_out: int
    warnings: Mapping[str, int]


def plan(order: PrepareSpec, workers: int | None = None, progress: bool = True) -> Plan:
    """What `prepare` would do with the same order, and raise; writes nothing. It reads every image: what a reader keeps of a cine, and
    whether a label is one, are matters of voxels."""
    by_subject, _ = order.subject_splits()
    ids, found = tuple(by_subject), order.table()
    order.is_begun()
    index, failures, warnings = {i: n for n, i in enumerate(ids)}, {}, Counter[str]()
    kept, size, columns = Counter[str](), 0, set[str]()
    counts = {plane: Counter(subjects=0, stacks=0, slices=0, labelled_stacks=0) for plane in order.planes}
    todo = [i for i in ids if by_subject[i] != LEFT_OUT]
    with tqdm(total=len(todo), desc="dry run", unit="subject", disable=not progress) as bar:
        for subject, measures in results(order.job.measure, todo, workers):
            bar.update()
            if isinstance(measures, str):
                failures[index[subject]] = measures
                continue
            kept[by_subject[subject]] += 1
            size += measures["bytes"]
            warnings.update(set(measures["warnings"]))
            columns.update(measures["measured"])
            for plane, (stacks, slices, labelled) in measures["planes"].items():
                counts[plane].update(subjects=1, stacks=stacks, slices=slices, labelled_stacks=labelled)
    for count in counts.values():
        size += SHARD_OVERHEAD * sum(-(-count[records] // SHARD_RECORDS) for records in ("slices", "stacks"))
    splits = {s: kept[s] for s in splitting.SPLITS}
    columns = (len(found[1].columns) if found else 0) + len(columns)
    failures = dict(sorted(failures.items()))
    return Plan(splits, counts, columns, size, failures, len(ids) - len(todo), dict(sorted(warnings.items())))
