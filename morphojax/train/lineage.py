"""What the encoder of a run was trained on, in that run and in the runs that it started from."""

from collections.abc import Iterator
from pathlib import Path

from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.schema import Column
from morphojax.train import checkpoint
from morphojax.train.checkpoint import CheckpointError
from morphojax.train.run import read_json


def lineage(run: Path) -> Iterator[Path]:
    """A run, the run that its encoder started from (`config.init_from`), and so on, as far as they
    still exist.
    """
    while True:
        yield run
        parent = read_json(run, "config.json", {"init_from?": str}).get("init_from")
        if not parent:
            return
        try:
            run = checkpoint.find(parent).parent.parent
        except CheckpointError:  # moved or deleted
            return


def columns_given(run: Path) -> tuple[str, ...]:
    """The table columns that the encoder of a run was trained with, in this run or in the runs that
    it started from.

    The label of a probe counts for runs that start from the probe, not for the probe itself. Rows
    under a control (`config.table.control`: another subject's row, or noise) do not count.
    """
    names: list[str] = []
    for each in lineage(run):
        config = read_json(each, "config.json", {"table?": {"control?": str, "label?": str}, "label?": str})
        settings = config.get("table", {})
        if settings.get("control", "none") == "none" and (each / "table.json").is_file():
            table = read_json(each, "table.json", {"schema?": [{"name": str}]})
            names += [column["name"] for column in table.get("schema", [])]
        names += [name for name in (settings.get("label"), config.get("label") if each != run else None) if name]
    return tuple(dict.fromkeys(names))


def trained_on(run: Path, fingerprint: str) -> tuple[str, ...]:
    """The splits of a dataset (by its fingerprint) that the encoder was trained on, in the same
    runs.
    """
    images, config = {"dataset_fingerprint": str}, {"data": {"splits": [str]}}
    runs = [r for r in lineage(run) if read_json(r, "preprocessing.json", images)["dataset_fingerprint"] == fingerprint]
    return tuple(dict.fromkeys(split for r in runs for split in read_json(r, "config.json", config)["data"]["splits"]))


def caveats(run: Path, label: Column, dataset: Dataset) -> list[str]:
    """Warnings, for people, about leaks that make a score on this label look better than it is.

    Read from table.json and config.json of the run and of the runs that its encoder started from.
    """
    lines, seen = [], columns_given(run)
    if label.name in seen:
        lines.append(
            f"the encoder was pretrained with the table column {label.name!r} itself: the score is of a label that it has "
            "seen (to avoid that, leave the column out with config.table.groups of the pretraining)"
        )
    schema = {column.name: column for column in dataset.schema.columns}
    related = [n for n in seen if n != label.name and n in schema and set(schema[n].leak) & set(label.leak)]
    if related:
        lines.append(
            f"the encoder was pretrained with columns that are measured in the same way as {label.name!r}: {', '.join(related)}"
        )
    if "test" in trained_on(run, dataset.fingerprint):
        lines.append("the encoder was trained on test subjects: the score is not on unseen subjects")
    return lines
