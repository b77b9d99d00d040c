"""The logs of runs as one long table."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.dynamics.images import images_per_step
from morphojax.data.errors import NamedError
from morphojax.train.run import short_names

COLUMNS = ["run", "line", "panel", "task", "step", "images", "name", "value"]


class DynamicsError(NamedError):
    """Runs whose dynamics cannot be drawn as asked. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory, and where its curves are drawn.

    name: unique among the runs.
    line: the runs of one line are averaged: an arm of a study, or the run alone.
    panel: what is drawn apart from others, as `unet, 2 labelled`; "": nothing.
    """

    folder: Path
    name: str
    line: str
    panel: str = ""


def of_folders(folders: Sequence[Path]) -> list[Run]:
    """A line for each run, named by the last parts of its path, as many as make the names unique.

    Raises RunError where a run is given twice.
    """
    return [Run(folder, name, name) for folder, name in zip(folders, short_names(folders), strict=True)]


def read(runs: Sequence[Run], wanted: Sequence[str]) -> pd.DataFrame:
    """A row per run, step and name that matches one of the patterns `wanted`: COLUMNS.

    `images` is the number of images seen (`images_per_step`). Raises DynamicsError for a run
    without a readable config and log.
    """
    frames = [read_run(run, wanted) for run in runs]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=pd.Index(COLUMNS))


def read_run(run: Run, wanted: Sequence[str]) -> pd.DataFrame:
    """The rows of one run, see `read`."""
    config, per_step = _config(run.folder / "config.json")
    pattern, known = re.compile("|".join(f"(?:{one})" for one in wanted)), {}
    steps, names, values = [], [], []
    for step, scalars in _lines(run.folder / "metrics.jsonl"):
        for name, value in scalars.items():
            if name not in known:
                known[name] = pattern.fullmatch(name) is not None
            if known[name]:
                steps.append(step)
                names.append(name)
                values.append(math.nan if value is None else float(value))
    frame = pd.DataFrame({"step": pd.Series(steps, dtype=int), "name": names, "value": pd.Series(values, dtype=float)})
    # A run that was killed and resumed by an earlier version has logged a step twice.
    frame = frame.drop_duplicates(["step", "name"], keep="last")
    about = {"run": run.name, "line": run.line, "panel": run.panel, "task": config["task"]}
    return frame.assign(images=frame["step"] * per_step, **about)[COLUMNS]


def _config(path: Path) -> tuple[dict[str, Any], int]:
    try:
        config = json.loads(path.read_bytes())
        return config, images_per_step(config)
    except OSError as error:
        raise DynamicsError(f"{path}: cannot be read ({error.strerror}); give the directories of runs") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DynamicsError(f"{path}: is no config of a pretraining or segmentation ({error})") from error


def _lines(path: Path) -> list[tuple[int, dict[str, float | None]]]:
    """(step, scalars) of every line. A last line that a kill cut short is left out."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DynamicsError(f"{path}: cannot be read ({error}); give the directories of runs") from error
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            scalars = json.loads(line)
            parsed.append((int(scalars.pop("step")), scalars))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number < len(lines):
                raise DynamicsError(f"{path}: line {number} is damaged; remove it, or leave the run out") from error
    return parsed
