"""The run directory: the description of a run that evaluation, fine-tuning and resuming read."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from morphojax.data import json_text
from morphojax.data.errors import NamedError
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.lock import LockError, locked

# Keys that may change when a run is resumed: they do not change what is computed.
FREE_KEYS = ("workdir", "log_every", "images_every", "dynamics_every", "keep_checkpoints", "data.workers")


DIGESTS = "digests.json"  # SHA-256 of the files that `create` writes


class RunError(NamedError):
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
    trained_on = read_json(run, "preprocessing.json", {"grid": object, "percentiles": object})
    for key in ("grid", "percentiles"):
        if trained_on[key] != images[key]:
            raise RunError(
                f"config.init_from={run}: its images were prepared with {key} {trained_on[key]}, this dataset with {images[key]}; "
                "prepare the dataset anew with the run's settings"
            )


def read_json(run: Path, name: str, shape: json_text.Shape = object, verify: bool = True) -> Any:
    """A JSON file of a run directory.

    shape: the structure that the reader relies on (`json_text`).

    Raises RunError where it is absent, damaged or of another structure; with `verify` also where it
    is not as the run wrote it, by the digest in DIGESTS (a run of an older version has none).
    """
    path = Path(run) / name
    try:
        data = path.read_bytes()
        if verify and _sha256(data) != _digests(run).get(name, _sha256(data)):
            raise RunError(f"{path}: has changed since the run wrote it; restore it, or train again")
        value = json_text.parse(data)
    except FileNotFoundError as error:
        raise RunError(f"{path}: not found; is {run} the directory of a run?") from error
    except RunError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    if found := json_text.problem(value, shape):
        raise RunError(f"{path}: not as a run writes it ({found}); restore the file, or train again")
    return value


def short_names(runs: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make them unique. Raises RunError where a run is
    given twice.
    """
    folders = [run.resolve() for run in runs]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(folders):
            return names
    twice = next(run for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1)
    raise RunError(f"{twice}: is given twice; name each run once")


def _digests(run: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files that describe a run; {} where it has no such file."""
    path = Path(run) / DIGESTS
    if not path.exists():
        return {}
    try:
        digests = json_text.parse(path.read_bytes(), {str: str})
        if "config.json" not in digests:  # as if swapped with another file
            raise ValueError("holds no digest of config.json")
    except ValueError as error:
        raise RunError(f"{path}: not as a run writes it ({error}); restore it, or train again") from error
    return digests


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
            # Not verified: a kill can come between these files and their digests. Resuming writes
            # both again.
            before = dict(json_text.flat(read_json(run, "config.json", verify=False)))
            now = dict(json_text.flat(json.loads(json.dumps(config))))
            changed = sorted(
                k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and k not in FREE_KEYS
            )
            if changed:
                raise RunError(
                    f"{run} holds a run with another config ({', '.join(changed[:6])}); "
                    "choose another config.workdir, or give the config that it was started with to resume it"
                )
            old, new = (
                read_json(run, "preprocessing.json", verify=False),
                json.loads(json.dumps(files["preprocessing.json"])),
            )
            if old != new:
                raise RunError(
                    f"{run} was started on another dataset or preparation of it; choose another config.workdir"
                )
            files = dict(files)
            start = files.pop("start.json", None)  # keep the one that the first start wrote
            if start and config["dynamics_every"] and start != read_json(run, "start.json", verify=False):
                raise RunError(
                    f"config.init_from={config['init_from']}: holds other weights than when {run} was started, and the run's distance "
                    "from its start would be wrong; restore them, or set config.dynamics_every=0 to go on without"
                )
        files = {"config.json": config, "environment.json": environment(), **files}
        texts = {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}
        if (run / "start.json").exists() and "start.json" not in texts:
            read_json(run, "start.json")  # verified: a damaged one must not get a digest of its own
            texts["start.json"] = (run / "start.json").read_text()
        digests = {name: _sha256(text.encode()) for name, text in texts.items()}
        for name, text in {**texts, DIGESTS: json.dumps(digests, indent=2) + "\n"}.items():
            _write(run / name, text)
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
