"""What morphojax itself wrote, damaged later: datasets, records, run directories, checkpoints."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphojax.data.store.dataset import MANIFEST, Dataset, DatasetError
from morphojax.data.store.lock import LockError, locked
from morphojax.data.store.manifest import OWN
from morphojax.data.store.records import RecordError, checksum
from morphojax.data.tables.schema import TableError
from tests.data import cohorts
from tests.data.preparing import prepare_acdc
from tests.reliability.mutations import Mutate, bits, json_text, text
from tests.reliability.targets import Target, replace, require


def prepared(folder: Path) -> Path:
    """A small dataset; its folder. Without the manifest's digest, which would hide its checks."""
    cohorts.acdc(folder / "cohort", subjects=2, shape=(8, 8, 3))
    prepare_acdc(folder / "cohort", folder / "dataset")
    state = json.loads((folder / "dataset" / MANIFEST).read_text())
    del state[OWN]
    replace(folder / "dataset" / MANIFEST, json.dumps(state).encode())
    return folder / "dataset"


def _inside(folder: Path, pattern: str, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in sorted(folder.glob(pattern))]


def build_dataset(folder: Path) -> Sequence[tuple[str, Mutate]]:
    prepared(folder)
    files = [(f"dataset/{MANIFEST}", json_text)] * 6
    return [*files, *((f"dataset/{name}", text()) for name in ("subjects.csv", "table.csv", "sax/stacks.csv"))]


def read_dataset(folder: Path, changed: Sequence[Path]) -> None:
    """Reads everything. The manifest lists a changed CSV as it is now, as after an edit by hand."""
    root = folder / "dataset"
    manifest = root / MANIFEST
    before = manifest.read_bytes() if manifest.is_file() else b""
    if manifest not in changed:
        state = json.loads(before)
        for shard in state["files"]:
            path = root / shard["path"]
            if path.is_file():
                shard |= {"bytes": path.stat().st_size, "sha256": checksum(path)}
        replace(manifest, json.dumps(state).encode())
    try:
        _check_dataset(Dataset.open(root))
    finally:
        if manifest not in changed:
            replace(manifest, before)


def _check_dataset(dataset: Dataset) -> None:
    require(len(dataset.subjects) == len(dataset.splits) == len(dataset.table), "subjects, splits and rows")
    require(set(dataset.splits) <= {"train", "val", "test"}, f"splits {set(dataset.splits)}")
    require(list(dataset.table.columns) == list(dataset.schema.names), "columns")
    for plane in dataset.manifest.planes:
        stacks = dataset.stacks(plane)
        slices = dataset.slices(plane)
        require(dataset.annotated(plane).shape == (len(stacks), 5), "annotated")
        require(
            (stacks["subject"] < len(dataset.subjects)).all() and (stacks["subject"] >= 0).all(), "subjects of stacks"
        )
        require(
            (stacks["first"] >= 0).all() and (stacks["first"] + stacks["slices"] <= len(slices)).all(),
            "slices of stacks",
        )
        for i in range(0, len(slices), 3):
            record = slices[i]
            require(record["image"].dtype == np.uint8 and record["image"].ndim == 2, "image")
        for row in range(len(stacks)):
            label, placement = dataset.native(plane, row)
            require(label is None or label.shape == placement.shape, "native label")


def build_records(folder: Path) -> Sequence[tuple[str, Mutate]]:
    root = prepared(folder)
    shards = [*_inside(root, "sax/*.array_record", folder)]
    return [(name, bits) for name in shards]


def read_records(folder: Path, changed: Sequence[Path]) -> None:
    """Flipped bits that keep the size: a changed size is refused at once."""
    dataset = Dataset.open(folder / "dataset")
    _check_dataset(dataset)


def build_run(folder: Path) -> Sequence[tuple[str, Mutate]]:
    from morphojax.train import run

    dataset = Dataset.open(prepared(folder))
    images = run.preprocessing(dataset, ("sax",), "frame", ("lv_cavity",))
    from morphojax.data.tables.encoder import TableEncoder
    from morphojax.tasks.probe.label import Label
    from tests.tasks import tiny

    encoder = TableEncoder.fit(dataset.table, dataset.schema.select("lv_edv_ml,lv_esv_ml,lv_ef_percent"), "iterative")
    label = Label.fit(dataset, "lv_edv_ml", np.arange(2))
    config = tiny.config("segment_sax", folder / "dataset", folder / "run").to_dict() | {"label": "lv_edv_ml"}
    files = {
        "preprocessing.json": images,
        "table.json": encoder.to_json(),
        "label.json": label.to_json(),
        "start.json": {"sha256": "0"},
    }
    (folder / "run").mkdir()
    run.create(folder / "run", config, files)
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": null}\n')
    names = _inside(folder / "run", "*.json", folder)
    (folder / "run/digests.json").rename(folder / "run/digests.whole")
    names.remove("run/digests.json")
    (folder / "run/lock").write_text(json.dumps({"host": "elsewhere", "process": 1, "job": ""}))
    return [*[(name, json_text) for name in names], ("run/metrics.jsonl", json_lines), ("run/digests.whole", json_text),
            ("run/lock", json_text)]  # fmt: skip


def json_lines(draw: Any, data: bytes) -> bytes:
    lines = data.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json_text(draw, lines[at]).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def read_run(folder: Path, changed: Sequence[Path]) -> None:
    from morphojax.data.tables.encoder import ENCODER_SHAPE
    from morphojax.inference import segmenter
    from morphojax.tasks.probe.label import Label
    from morphojax.train import lineage, logger, run

    root = folder / "run"
    digests = root / "digests.json"
    if root / "digests.whole" in changed and (root / "digests.whole").is_file():
        digests.write_bytes((root / "digests.whole").read_bytes())
    try:
        for path in (p for p in changed if p.suffix == ".json"):
            run.read_json(root, path.name)
        dataset = Dataset.open(folder / "dataset")
        run.check_same_images(run.preprocessing(dataset, ("sax",), "frame", ("lv_cavity",)), root)
        lineage.columns_given(root)
        lineage.trained_on(root, dataset.fingerprint)
        lineage.caveats(root, dataset.schema.columns[0], dataset)
        with contextlib.suppress(TableError):  # `inference.probing` names the file
            Label.from_json(run.read_json(root, "label.json", {"table": ENCODER_SHAPE, "classes": [str]}))
        list(logger.logged(root, 10))
        with contextlib.suppress(LockError, OSError), locked(root / "lock"):
            pass
        with contextlib.suppress(segmenter.checkpoint.CheckpointError):  # this run has no checkpoints
            segmenter.load_run(root)
    finally:
        digests.unlink(missing_ok=True)


def build_checkpoint(folder: Path) -> Sequence[tuple[str, Mutate]]:
    from tests.train.test_loop import fit
    from tests.train.toy import Batches, task

    with contextlib.redirect_stdout(io.StringIO()):
        fit(folder / "run", task(2, Batches()), save_every=2)
    step = next((folder / "run/checkpoints").glob("*/digests.json")).parent
    (step / "digests.json").rename(folder / "digests.whole")
    names = [str(p.relative_to(folder)) for p in sorted(step.rglob("*")) if p.is_file()]
    mutations = [(name, json_text if _is_json(folder / name) else bits) for name in names]
    return [*mutations, ("digests.whole", json_text)]


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def read_checkpoint(folder: Path, changed: Sequence[Path]) -> None:
    from morphojax.train import checkpoint

    step = next(p for p in (folder / "run/checkpoints").iterdir() if p.name.isdigit())
    if folder / "digests.whole" in changed and (folder / "digests.whole").is_file():
        (step / "digests.json").write_bytes((folder / "digests.whole").read_bytes())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            checkpoint.load_variables(checkpoint.find(folder / "run", "last"))
    finally:
        (step / "digests.json").unlink(missing_ok=True)


def _named() -> tuple[type[Exception], ...]:
    from morphojax.inference.probing import ProbeError
    from morphojax.train.run import RunError

    return (RunError, ProbeError, DatasetError, RecordError)


def _named_checkpoint() -> tuple[type[Exception], ...]:
    from morphojax.train.checkpoint import CheckpointError
    from morphojax.train.run import RunError

    return (RunError, CheckpointError)


TARGETS = (
    Target("dataset", build_dataset, read_dataset, (DatasetError, RecordError)),
    Target("records", build_records, read_records, (DatasetError, RecordError)),
    Target("run_json", build_run, read_run, _named()),
    Target("checkpoint", build_checkpoint, read_checkpoint, _named_checkpoint()),
)
