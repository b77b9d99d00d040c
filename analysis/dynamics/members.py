"""The finished runs of a study, by the arm that they belong to."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.dynamics.logs import DynamicsError, Run
from analysis.study import state
from analysis.study.spec import ARM, LABELLED, SEED


@dataclasses.dataclass(frozen=True)
class Member:
    """A cell of a study.

    folder: of its segmentation.
    values: axis -> name.
    labels: number of labelled subjects, if known.
    pretraining: the folder that it starts from.
    done: whether its segmentation is.
    """

    folder: Path
    values: Mapping[str, str]
    labels: float | None
    pretraining: Path | None
    done: bool


def runs_of(cells: Sequence[Member], pretrained: Sequence[Path]) -> list[Run]:
    """The finished runs: segmentations, then pretrainings.

    A line is an arm, and a panel the values of the other axes (an encoder, a plane), with the
    number of labelled subjects, or the labelled set where it is unknown. Seeds, and sets with as
    many subjects, are thus averaged. A pretraining that several arms use has all their names.

    Args:
        cells: in the order in which lines and panels are drawn.
        pretrained: folders of the finished pretrainings.
    """
    found = []
    for cell in cells:
        if cell.done:
            labelled = cell.values[LABELLED] if cell.labels is None else f"{cell.labels:g} labelled"
            panel = ", ".join(filter(None, (_others(cell), labelled)))
            found.append(Run(cell.folder, f"cells/{cell.folder.name}", cell.values[ARM], panel))
    users = {folder: [cell for cell in cells if cell.pretraining == folder] for folder in pretrained}
    for folder in sorted(pretrained, key=lambda folder: cells.index(users[folder][0]) if users[folder] else len(cells)):
        arms = dict.fromkeys(cell.values[ARM] for cell in users[folder])
        line, panel = ", ".join(arms) or folder.name, " / ".join(dict.fromkeys(map(_others, users[folder])))
        found.append(Run(folder, f"pretraining/{folder.name}", line, panel))
    return found


def of_folder(study: Path) -> tuple[list[Run], int]:
    """The finished runs of a study's folder, and how many others have begun.

    Raises DynamicsError where the folder holds no run of a study, or a damaged record.
    """
    records = {path.parent: _record(path.parent) for path in sorted(study.glob(f"*/*/{state.FILE}"))}
    if not records:
        raise DynamicsError(f"--study={study}: holds no cells/*/{state.FILE}; give the folder of a study")
    done = {folder for folder, record in records.items() if record["results"]}
    cells = []
    for folder, record in records.items():
        if record["cell"] is not None:
            start = _start(record["commands"])
            pretraining = study / "pretraining" / start if start else None
            cells.append(Member(folder, record["cell"], record["labels"], pretraining, folder in done))
    cells.sort(key=lambda cell: (_others(cell), cell.labels or math.inf, *cell.values.values()))
    pretrained = [folder for folder in sorted(done) if records[folder]["cell"] is None]
    return runs_of(cells, pretrained), len(records) - len(done)


def _others(cell: Member) -> str:
    """The values of the axes that are neither the arm nor repeated."""
    return ", ".join(value for axis, value in cell.values.items() if axis not in (ARM, LABELLED, SEED))


def _start(commands: Sequence[Sequence[str]]) -> str:
    """The name of the directory that the training starts from; "" without one. The path before it
    is that of the machine and time of the run.
    """
    flag = "--config.init_from="
    return next((Path(word.removeprefix(flag)).name for word in commands[0] if word.startswith(flag)), "")


def _record(run: Path) -> dict:
    try:
        return state.parse_record(run / state.FILE)
    except (OSError, ValueError) as error:
        raise DynamicsError(f"{run / state.FILE}: {error}; remove the directory to run the job again") from error
