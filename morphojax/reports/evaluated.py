"""What `morphojax evaluate` wrote about runs, and the runs themselves, as a report reads them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax import anatomy
from morphojax.data import json_text
from morphojax.data.errors import NamedError
from morphojax.data.store.splits import SPLITS
from morphojax.evaluation import clinical, positions, statistics, summary
from morphojax.train.run import read_json

_CONFIG = {
    "data": {"dataset": str, "plane": str, "splits": [str], "subjects": [str], "fraction": float},
    "model": {"encoder": str, "width": int},
    "init_from": str,
    "steps": int,
    "batch_size": int,
    "seed": int,
    "eval_every": int,
    "unlabelled?": {"batch_size": int, "subjects": [str]},
}
_IMAGES = {
    "dataset_fingerprint": str,
    "planes": [str],
    "structures": [str],
    "grid": {"spacing_mm": float, "size": int},
}
_ENVIRONMENT = {"python?": str, "packages": {str: object}, "devices": [str], "commit?": object}
_SUMMARY = {
    "checkpoint": str,
    "weights": str,
    "dataset_fingerprint": str,
    "largest_component?": bool,
    "runs?": [str],
    "command?": str,
    "environment?": _ENVIRONMENT,
    "conventions": {"surface_dice_tolerance_mm?": float},
    "rows": [{"plane": str, "structure": str, "phase": str, "n_subjects": int, "n_valid": int, "dice": object}],
}
_KEYS = ("plane", "structure", "phase")
_KNOWN = {
    "plane": {*anatomy.PLANES, clinical.BIPLANE},
    "structure": {*anatomy.STRUCTURES, summary.MEAN},
    "phase": {*anatomy.PHASES, summary.POOLED},
    "measure": set(clinical.TITLE),
    "position": set(positions.POSITIONS),
}


class ReportError(NamedError):
    """Runs that cannot be reported. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The files that describe a run, and its folder."""

    folder: Path
    config: Mapping[str, Any]
    images: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The scoring of one split by a run, or by several runs of different planes.

    about: of summary_<split>.json. summary: its rows. scores, measures: of the files of that name;
    positions: empty where an earlier version wrote none. Subjects are indices.
    """

    folder: Path
    split: str
    runs: Sequence[Trained]
    about: Mapping[str, Any]
    summary: pd.DataFrame
    scores: pd.DataFrame
    positions: pd.DataFrame
    measures: pd.DataFrame

    @property
    def planes(self) -> list[str]:
        return [plane for plane in anatomy.PLANES if (self.scores["plane"] == plane).any()]

    def by_subject(self, plane: str, structure: str = summary.MEAN, metric: str = "dice") -> pd.Series:
        """Subject -> its mean over phases and, for the MEAN, structures, as in the summary."""
        chosen = self.scores[self.scores["plane"] == plane]
        if structure != summary.MEAN:
            chosen = chosen[chosen["structure"] == structure]
        return pd.Series(statistics.per_subject(chosen[metric].to_numpy(), chosen["index"].tolist()), dtype=float)


def of_run(run: Path, split: str) -> Evaluated:
    """The evaluation in a run's own folder, with other runs that were scored in the same command.

    Raises ReportError where the run was not evaluated on the split, and RunError.
    """
    trained = read_run(run)
    folder = run / "evaluation"
    if not (folder / f"summary_{split}.json").is_file():
        others = [s for s in SPLITS if (folder / f"summary_{s}.json").is_file()]
        has = f"; it was evaluated on {', '.join(others)}" if others else ""
        raise ReportError(
            f"{run}: was not evaluated on the {split} split{has}: run `morphojax evaluate --run={run} --split={split}`"
        )
    about = _summary(folder / f"summary_{split}.json")
    others = [Path(other) for other in about.get("runs", [])[1:]]
    return read(folder, split, [trained, *(read_run(other) for other in others if other.is_dir())])


def read_run(folder: Path) -> Trained:
    """Raises RunError where a file is absent, damaged, or of no segmentation."""
    config, images = read_json(folder, "config.json"), read_json(folder, "preprocessing.json", _IMAGES)
    if not images["structures"] or (isinstance(config, dict) and config.get("task", "segment") != "segment"):
        raise ReportError(f"{folder} is no segmentation run: give the directory of a run of a segment config")
    config = read_json(folder, "config.json", _CONFIG)
    return Trained(folder, config, images, read_json(folder, "environment.json", _ENVIRONMENT))


def read(folder: Path, split: str, runs: Sequence[Trained]) -> Evaluated:
    """The evaluation of runs in a folder. Raises ReportError or RunError for a damaged file."""
    about = _summary(folder / f"summary_{split}.json")
    rows = pd.DataFrame(about["rows"])
    _check(folder / f"summary_{split}.json", rows, _KEYS)
    for name in rows.columns.difference(list(_KEYS)):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")  # null: NaN
    numbers = ("index", "dice", "hd95_mm", "assd_mm", "missed", "spurious")
    return Evaluated(
        folder,
        split,
        runs,
        about,
        rows,
        _table(folder / f"scores_{split}.csv", _KEYS, numbers),
        _table(folder / f"positions_{split}.csv", positions.COLUMNS[:4], ("index", "dice"), optional=True),
        _table(folder / f"measures_{split}.csv", ("plane", "measure"), ("index", "reference", "predicted")),
    )


def _summary(path: Path) -> dict[str, Any]:
    try:
        return json_text.parse(path.read_bytes(), _SUMMARY)
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}); run evaluate again") from error


def _table(path: Path, texts: Sequence[str], numbers: Sequence[str], optional: bool = False) -> pd.DataFrame:
    """A table of an evaluation, without pseudonyms. Raises ReportError where it is absent, unless
    optional, or damaged.
    """
    empty = pd.DataFrame(columns=pd.Index([*texts, *numbers]))
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:  # nothing was measured
        return empty
    except FileNotFoundError as error:
        if optional:
            return empty
        raise ReportError(f"{path}: not found; run evaluate again") from error
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}); run evaluate again") from error
    if absent := [name for name in (*texts, *numbers) if name not in table]:
        raise ReportError(f"{path}: has no column {absent[0]!r}; run evaluate again")
    _check(path, table, texts)
    if wrong := [name for name in numbers if len(table) and not pd.api.types.is_numeric_dtype(table[name])]:
        raise ReportError(f"{path}: column {wrong[0]!r} holds a value that is no number; run evaluate again")
    return table.drop(columns="subject", errors="ignore")


def _check(path: Path, table: pd.DataFrame, texts: Sequence[str]) -> None:
    for name in texts:
        if unknown := sorted(map(str, set(table[name]) - _KNOWN[name])):
            raise ReportError(f"{path}: {name} {unknown[0]!r} is unknown; run evaluate again")
