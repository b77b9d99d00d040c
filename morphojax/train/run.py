"""The run directory: the description of a run that evaluation, fine-tuning and resuming read."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from morphojax.data.store.dataset import Dataset
from morphojax.data.store.lock import LockError, locked

# Keys that may change when a run is resumed: they do not change what is computed.
_FREE = ("workdir", "log_every", "images_every", "dynamics_every", "keep_checkpoints", "data.workers")


class RunError(ValueError):
    """A run directory that cannot be written or read, or that holds another run."""


def preprocessing(dataset: Dataset, planes: Sequence[str], channels: str, structures: Sequence[str]) -> dict[str, Any]:
    """All that prediction must know about the images; later stages read it from here. No subject
    ids.

    `measures` lists the columns that a segmentation's decoder is conditioned on; the task fills it
    in.
    """
    manifest = dataset.manifest
    return {
        "planes": list(planes),
        "channels": channels,
        "grid": manifest.grid.to_json(),
        "percentiles": list(manifest.percentiles),
        "structures": list(structures),
        "measures": [],
        "dataset_fingerprint": dataset.fingerprint,
    }


def check_same_images(images: Mapping[str, Any], run: Path) -> None:
    """Raises RunError where a run's encoder was trained on images that were prepared
    differently.
    """
    trained_on = read_json(run, "preprocessing.json")
    for key in ("grid", "percentiles"):
        if trained_on[key] != images[key]:
            raise RunError(
                f"config.init_from={run}: its images were prepared with {key} {trained_on[key]}, this dataset with {images[key]}; "
                "prepare the dataset anew with the run's settings"
            )


def read_json(run: Path, name: str) -> Any:
    """A JSON file of a run directory. Raises RunError where it is absent or damaged."""
    path = Path(run) / name
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{path}: not found; is {run} the directory of a run?") from error
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error


def create(run: Path, config: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Writes the description of a run, or checks that the directory holds the same run.

    `start.json` among the files is a digest of the weights that the run starts from: it must not
    have changed where dynamics compare with them. Raises RunError for an unwritable directory, and,
    naming the keys, for one that holds another run.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        existing = run / "config.json"
        if existing.exists() and (run / "checkpoints").is_dir():
            before, now = _flat(read_json(run, "config.json")), _flat(json.loads(json.dumps(config)))
            changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and k not in _FREE)
            if changed:
                raise RunError(
                    f"{run} holds a run with another config ({', '.join(changed[:6])}); "
                    "choose another config.workdir, or give the config that it was started with to resume it"
                )
            old, new = read_json(run, "preprocessing.json"), json.loads(json.dumps(files["preprocessing.json"]))
            if old != new:
                raise RunError(
                    f"{run} was started on another dataset or preparation of it; choose another config.workdir"
                )
            files = dict(files)
            start = files.pop("start.json", None)  # keep the one that the first start wrote
            if start and config["dynamics_every"] and start != read_json(run, "start.json"):
                raise RunError(
                    f"config.init_from={config['init_from']}: holds other weights than when {run} was started, and the run's distance "
                    "from its start would be wrong; restore them, or set config.dynamics_every=0 to go on without"
                )
        for name, content in {"config.json": config, "environment.json": environment(), **files}.items():
            _write(run / name, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"config.workdir={run}: cannot be written ({error})") from error


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Makes the run directory and holds its lock. Raises RunError where another process trains
    there, or the directory cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(run / "lock"))
        except OSError as error:
            raise RunError(f"config.workdir={run}: cannot be written ({error})") from error
        except LockError as error:
            raise RunError(f"config.workdir: {error}") from error
        yield


def environment() -> dict[str, Any]:
    """Versions, devices and commit: on which a result may depend.

    A version is None where the package is not installed, as in a bare source tree; the commit
    without git.
    """
    packages = ("morphojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    command = ["git", "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    except OSError:  # git is not installed
        commit = ""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "commit": commit.strip() or None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in _flat(sub, f"{prefix}.{name}" if prefix else name).items()}
