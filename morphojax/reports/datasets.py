"""The dataset and the subjects of a run, in words; never the names of subjects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morphojax import anatomy
from morphojax.data.geometry import Grid
from morphojax.data.prepare import embedded
from morphojax.data.store.manifest import DatasetError, Manifest, read_manifest
from morphojax.tasks import cohort


def manifest_of(data: Mapping[str, Any], images: Mapping[str, Any]) -> tuple[Manifest | None, str]:
    """The manifest of a dataset, if it is the one that a run was trained on; else why not.

    data: the run's `config.data`. images: its preprocessing.json.
    """
    root = Path(data["dataset"])
    if data["dataset"] == "synthetic":
        grid = Grid(data["synthetic_spacing_mm"], data["synthetic_size"])
        planes = anatomy.parse_planes(data["plane"])
        cache = embedded.default_cache()
        root = embedded.folder(cache, data["synthetic_subjects"], data["synthetic_seed"], grid, planes)
    unknown = "source, subjects per split and columns of the table are not known here."
    try:
        manifest = read_manifest(root)
    except DatasetError:
        return None, f"Dataset {data['dataset']} is not there, or cannot be read: its {unknown}"
    if manifest.fingerprint != images["dataset_fingerprint"]:
        return None, f"{data['dataset']} holds another dataset now (fingerprint {manifest.fingerprint}): the {unknown}"
    return manifest, ""


def who(splits: Sequence[str], subjects: Sequence[str], fraction: float = 1.0) -> str:
    """The subjects of a config, in words; never their names."""
    part = "" if fraction == 1 else f"fraction {fraction:g} of "
    if not subjects:
        return f"{part}split {', '.join(splits)}"
    if len(subjects) > 1:
        return f"{part}{len(subjects)} subjects that the config names"
    path = Path(subjects[0])
    if not path.is_file():
        return f"{part}one subject, or a list that is not there any more"
    try:
        return f"{part}{path} (subjects: {len(cohort.read_list(path, 'subjects'))})"
    except ValueError:
        return f"{part}{path}, which cannot be read"
