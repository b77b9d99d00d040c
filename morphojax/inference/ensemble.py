"""Several runs, or several checkpoints of a run, that segment together."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from morphojax.inference.segmenter import Run, load_run
from morphojax.train import checkpoint
from morphojax.train.choices import ALL
from morphojax.train.run import RunError

_SAME = {
    "planes": "planes",
    "structures": "structures",
    "grid": "image grid",
    "percentiles": "intensity percentiles",
}


def load_ensemble(
    directories: Sequence[str | Path], which: str = "best", weights: str = "model", largest_component: bool = False
) -> Run:
    """The first run, with all others as `Run.others`.

    Args:
        which: `best` or `last` of each run, or `all`: every checkpoint that is kept is a member.
        weights, largest_component: as in `load_run`.

    Raises:
        RunError, CheckpointError: as `load_run`, and where a directory is given twice, or runs
            differ in planes, structures or the preparation of images.
    """
    resolved = [Path(directory).resolve() for directory in directories]
    members: list[tuple[str | Path, Run]] = []
    for i, directory in enumerate(directories):
        if resolved[i] in resolved[:i]:
            raise RunError(f"--run={directory} is given twice; name each run once")
        for chosen in checkpoint.kept(directory) if which == ALL else [which]:
            run = load_run(directory, chosen, weights, largest_component=largest_component)
            members.append((directory, run))
    (first_directory, first), *others = members
    for directory, run in others:
        for field, words in _SAME.items():
            one, other = getattr(first, field), getattr(run, field)
            if one != other:
                raise RunError(
                    f"--run={directory} has other {words} than --run={first_directory} ({other}, not {one}); "
                    "an ensemble needs runs of the same kind"
                )
    return dataclasses.replace(first, others=tuple(run for _, run in others))
