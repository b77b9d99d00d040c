"""From `config.data` to a dataset and the subjects of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from morphojax import anatomy
from morphojax.data.geometry import Grid
from morphojax.data.prepare import embedded
from morphojax.data.store import splits
from morphojax.data.store.dataset import Dataset


def open_dataset(
    *,
    dataset: str,
    plane: str,
    synthetic_subjects: int,
    synthetic_seed: int,
    synthetic_spacing_mm: float,
    synthetic_size: int,
) -> Dataset:
    """A prepared dataset by its folder, or `synthetic`: the embedded cohort, made once and cached.

    Raises:
        DatasetError: no dataset in that folder. ValueError: an unknown plane, or one that the
            dataset lacks.
    """
    try:
        planes = anatomy.parse_planes(plane)
    except ValueError as error:
        raise ValueError(f"config.data.plane: {error}") from error
    if dataset == "synthetic":
        grid = Grid(spacing_mm=synthetic_spacing_mm, size=synthetic_size)
        path = embedded.ensure_synthetic(
            embedded.default_cache(), subjects=synthetic_subjects, seed=synthetic_seed, grid=grid, planes=planes
        )
    else:
        path = Path(dataset)
    opened = Dataset.open(path)
    if lacking := [p for p in planes if p not in opened.manifest.planes]:
        raise ValueError(
            f"config.data.plane={plane!r}: {', '.join(lacking)} not in {path}, which holds {', '.join(opened.manifest.planes)}"
        )
    return opened


def open_configured(data: Mapping[str, Any], dataset: str | None = None) -> Dataset:
    """The dataset of a config's `data`; dataset: another place of it. Raises as `open_dataset`."""
    settings: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("dataset", "plane") or key.startswith("synthetic_"):
            settings[key] = value
    if dataset is not None:
        settings["dataset"] = dataset
    return open_dataset(**settings)


def select_subjects(
    dataset: Dataset,
    *,
    split_names: Sequence[str],
    subjects: Sequence[str],
    fraction: float,
    seed: int,
    key: str = "config.data.subjects",
) -> np.ndarray:
    """Sorted indices of the subjects that take part.

    Args:
        split_names: splits to take subjects from. `test` is allowed, with a warning in the log.
        subjects: explicit ids, or one path to a text file with one id per line; empty: all of the
            splits.
        key: the config key of `subjects`, for messages.
        fraction: of them, chosen by hash of id and seed: a smaller fraction is a subset of a larger
            one.

    Raises:
        ValueError: an unknown id or one outside the splits (the message gives its position, not the
            id), or no subject left.
    """
    unknown = set(split_names) - set(splits.SPLITS)
    if unknown:
        raise ValueError(
            f"config.data.splits: {', '.join(sorted(unknown))} unknown; choose among {', '.join(splits.SPLITS)}"
        )
    if "test" in split_names:
        logging.warning("TEST SUBJECTS TAKE PART IN TRAINING, because config.data.splits names the test split")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"config.data.fraction={fraction}: give a value above 0 and up to 1")
    allowed = np.flatnonzero(np.isin(dataset.splits, list(split_names)))
    if len(subjects) == 1 and Path(subjects[0]).is_file():
        subjects = read_list(Path(subjects[0]), key)
    if subjects:
        position = {name: i for i, name in enumerate(dataset.subjects)}
        hint = ", which names them by pseudonyms: see morphojax.pseudonyms" if dataset.manifest.pseudonyms else ""
        for number, name in enumerate(subjects, start=1):
            if name not in position:
                raise ValueError(f"{key}: entry {number} is no subject of this dataset{hint}")
            if position[name] not in allowed:
                raise ValueError(
                    f"{key}: entry {number} is in the {dataset.splits[position[name]]} split, "
                    f"outside config.data.splits={tuple(split_names)}"
                )
        allowed = np.array(sorted({position[name] for name in subjects}))
    if fraction < 1.0:
        allowed = allowed[list(splits.nested([dataset.subjects[i] for i in allowed], fraction, seed))]
    if not len(allowed):
        raise ValueError(f"config.data: no subject left in the splits {tuple(split_names)}")
    return allowed


def read_list(path: Path, key: str) -> list[str]:
    """The ids of a text file, one per line; a header `subject`, quotes and commas are no part of
    them. Raises ValueError for a file without ids or not in UTF-8.
    """
    try:
        words = [word.strip("\"',;") for word in path.read_text(encoding="utf-8-sig").split()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {path} cannot be read ({error}); save it as UTF-8 text, one id per line") from error
    words = [word for word in words if word]
    if not (words := words[1:] if words[:1] == ["subject"] else words):
        raise ValueError(f"{key}: {path} holds no id; write one per line, or leave the key empty for all subjects")
    return words
