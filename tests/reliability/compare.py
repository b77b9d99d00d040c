"""What a command left in a folder, as {name: digest or row}, and how two such records differ."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Left = dict[str, Any]
CHECKPOINTS = "checkpoints/"
LOG = "metrics.jsonl"
STUDY, REPORT = "study.json", "report/"
TIMING = ("train/examples_per_second",)
# Of a moment, not of a result: TensorBoard's events hold times, and their names too.
IGNORED = ("events.out.tfevents.",)
PARTS = (".part", ".partial")  # endings of files that no command reads: a kill came while they were written


def left(folder: Path) -> Left:
    """Everything below a folder that is a result.

    A file is its digest. Of `metrics.jsonl` every row counts, without timing fields; of a
    checkpoint every array of the state (parameters, optimizer, running statistics, EMA weights,
    step), the position of the input iterator and the score. A checkpoint that the run itself
    refuses as damaged is left out. Of a study: its runs, and its report.
    """
    if runs := sorted(path.parent for path in folder.glob(f"*/*/{STUDY}")):
        return _study(folder, runs)
    found: Left = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.startswith(CHECKPOINTS) or path.name.startswith(IGNORED) or is_part(name):
            continue
        if name == LOG:
            found |= _rows(path)
        elif name in (STUDY, "environment.json", "digests.json"):
            found[name] = _without_moments(path)
        else:
            found[name] = (
                _digest(gzip.decompress(data) if name.endswith(".gz") else data) if (data := path.read_bytes()) else ""
            )
    for step in sorted(p for p in folder.glob(f"{CHECKPOINTS}*") if p.name.isdigit()):
        found |= {f"{CHECKPOINTS}{step.name} {name}": value for name, value in _checkpoint(step).items()}
    return found


def is_part(name: str) -> bool:
    """Whether a file is one that was being written, or holds partial results of `prepare`."""
    return name.endswith(PARTS) or name.startswith(".partial/")


def parts(folder: Path) -> list[str]:
    """The names of left-over files that were being written."""
    names = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
    return [name for name in names if is_part(name)]


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of what is absent, unexpected, or not equal."""
    both = found.keys() | expected.keys()
    return sorted(
        f"{name}: {'absent' if name not in found else 'unexpected' if name not in expected else 'differs'}"
        for name in both
        if name not in found or name not in expected or found[name] != expected[name]
    )


def half(found: Mapping[str, Any], expected: Mapping[str, Any], kind: str) -> list[str]:
    """What an ended command left that reads as whole and is not as expected.

    expected: for a run, what it leaves if it keeps every checkpoint.
    """
    if kind == "dataset":
        wrong = differences(found, expected) if "dataset.json" in found else []
        return [line for line in wrong if line != "contact_sheet.png: absent"]  # drawn after the dataset is whole
    if kind == "study":
        return _half_study(found, expected)
    checked = {n: v for n, v in found.items() if kind == "scores" or n.startswith(CHECKPOINTS)}
    steps = {name.split()[0] for name in checked}
    wanted = {n: v for n, v in expected.items() if n in checked or (kind == "run" and n.split()[0] in steps)}
    return differences(checked, wanted)


def _rows(path: Path) -> Left:
    """Rows by step, kind (train, val, ...) and repetition; a line that is no row by its number."""
    rows: Left = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        try:
            row = json.loads(line)
            kinds = sorted({key.partition("/")[0] for key in row if key != "step"})
            name = f"{LOG}:{row['step']} {','.join(kinds)}"
            row = {k: v for k, v in row.items() if k not in TIMING}
        except (ValueError, TypeError, KeyError, AttributeError):
            name, row = f"{LOG}:line {number}", line
        while name in rows:
            name += " again"
        rows[name] = row
    return rows


def _study(folder: Path, runs: list[Path]) -> Left:
    found: Left = {}
    for run in runs:
        found |= {f"{run.relative_to(folder).as_posix()}/{name}": value for name, value in left(run).items()}
    if (folder / REPORT).is_dir():
        found |= {f"{REPORT}{name}": value for name, value in left(folder / REPORT).items()}
    return found


def _half_study(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Runs whose record says that they are done, and files of the report, must be as expected."""
    done = tuple(
        name.removesuffix(STUDY)
        for name, value in found.items()
        if name.endswith(f"/{STUDY}") and isinstance(value, dict) and value.get("results")
    )
    checked = {name: value for name, value in found.items() if name.startswith((*done, REPORT))}
    return differences(checked, {n: v for n, v in expected.items() if n in checked or n.startswith(done)})


def _without_moments(path: Path) -> Any:
    """The commit may change while a long comparison runs; seconds and their digests do."""
    try:
        content = json.loads(path.read_bytes())
        if isinstance(results := content.get("results"), dict):
            content["results"] = sorted(results)
        return {k: v for k, v in content.items() if k not in ("commit", "environment.json", "seconds")}
    except (ValueError, AttributeError):
        return _digest(path.read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _checkpoint(folder: Path) -> Left:
    """The stored bytes of every array, read without JAX; {} for a folder that is refused as
    damaged.
    """
    import tensorstore

    from morphojax.train import digests

    if digests.damage(folder) is not None:
        return {}
    try:
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/state/"}).result()
        found: Left = {key.decode(): _digest(store.read(key).result().value) for key in store.list().result()}
        metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    except (ValueError, OSError, KeyError):  # the run reports it as damage, too
        return {}
    score = folder / "metrics" / "metrics"
    return found | {"iterator": metadata, "score": json.loads(score.read_text()) if score.is_file() else None}
