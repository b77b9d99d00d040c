"""The embedded synthetic cohort: generated and prepared once, then read from a cache."""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morphojax.data.geometry import Grid
from morphojax.data.prepare.assemble import prepare
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.spec import PERCENTILES, PrepareSpec
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.sources.synthetic import cohort as synthetic_cohort
from morphojax.data.store.dataset import FORMAT_VERSION, MANIFEST


def default_cache() -> Path:
    """The folder of the cache: $MORPHOJAX_CACHE, else ~/.cache/morphojax."""
    return Path(os.environ.get("MORPHOJAX_CACHE") or Path.home() / ".cache" / "morphojax")


def ensure_synthetic(
    cache_dir: Path, subjects: int, seed: int, grid: Grid, planes: Sequence[str], workers: int | None = None
) -> Path:
    """The folder of the prepared synthetic cohort, made first where the cache does not hold it.

    Processes that ask at the same time wait for the first. Raises PrepareError.
    """
    output = folder(cache_dir, subjects, seed, grid, planes)
    root = output.parent
    if (output / MANIFEST).is_file():
        return output
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (output / MANIFEST).is_file():
                source = Synthetic(generate(root / "cohort", subjects=subjects, seed=seed, workers=workers))
                prepare(PrepareSpec(source, output, "synthetic", grid, planes), workers)
    except OSError as error:
        raise PrepareError(
            f"{error.filename or root}: cannot be written ({error.strerror or error}); "
            "set MORPHOJAX_CACHE to a folder that can be written"
        ) from error
    return output


def folder(cache_dir: Path, subjects: int, seed: int, grid: Grid, planes: Sequence[str]) -> Path:
    """Where `ensure_synthetic` keeps the cohort, made or not."""
    cohort = {"subjects": subjects, "seed": seed, "version": synthetic_cohort.VERSION}
    settings = {"grid": grid.to_json(), "planes": list(planes), "percentiles": PERCENTILES, "format": FORMAT_VERSION}
    return cache_dir / f"synthetic-{_key(cohort)}" / f"dataset-{_key(settings)}"


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
