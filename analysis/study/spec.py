"""A study as its config describes it: axes, cells and planned contrasts."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from analysis.study.errors import StudyError
from morphojax.data.json_text import flat

STAGES = ("pretrain", "segment")
ARM, LABELLED, SEED = "arm", "labelled", "seed"  # the axes that the report knows; any other is a stratum
_KEYS = {"question", "folder", "axes", "base", "cells", "baseline", "contrasts", "evaluate"}
_EVALUATE = {"split", "checkpoint", "weights"}
_OWN = ("workdir", "init_from")  # keys of a stage that the study sets itself


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of the matrix.

    values: axis -> name of its value, in the order of the axes.
    stages: stage -> config and overrides of dotted keys; "pretrain" is absent where there is none.
    labels: number of labelled subjects, if the study says it.
    """

    values: Mapping[str, str]
    stages: Mapping[str, tuple[str, Mapping[str, Any]]]
    labels: float | None

    @property
    def name(self) -> str:
        return "_".join(self.values.values())


@dataclasses.dataclass(frozen=True)
class Study:
    """cells: in the order in which they run. contrasts: pairs (arm, control), planned before any
    run. evaluate: the flags of morphojax.evaluate.
    """

    question: str
    folder: Path
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    baseline: str
    contrasts: tuple[tuple[str, str], ...]
    evaluate: Mapping[str, Any]
    chosen: tuple[str, ...] = ()

    @property
    def strata(self) -> tuple[str, ...]:
        """Axes whose values are reported apart: not arm, labelled set or seed."""
        return tuple(axis for axis in self.axes if axis not in (ARM, LABELLED, SEED))


def from_config(config: ml_collections.ConfigDict) -> Study:
    """Raises StudyError, naming the key, for a study that is not complete and consistent."""
    values = config.to_dict()
    if values.keys() != _KEYS:
        raise StudyError(
            f"a study has the keys {', '.join(sorted(_KEYS))}; see {', '.join(sorted(values.keys() ^ _KEYS))}"
        )
    if unknown := values["evaluate"].keys() ^ _EVALUATE:
        raise StudyError(f"evaluate: give exactly {', '.join(sorted(_EVALUATE))}; see {', '.join(sorted(unknown))}")
    axes = values["axes"]
    if missing := [axis for axis in (ARM, LABELLED, SEED) if not axes.get(axis)]:
        raise StudyError(f"axes.{missing[0]}: every study has the axes arm, labelled and seed, with a value or more")
    if wrong := [axis for axis, names in axes.items() if not isinstance(names, Mapping)]:
        raise StudyError(f"axes.{wrong[0]}: give names and their overrides, as {{'0': {{'segment': {{'seed': 0}}}}}}")
    for axis, name in ((axis, name) for axis, names in axes.items() for name in names):
        _check_name(axis, name)
        _check_fragment(f"axes.{axis}.{name}", axes[axis][name], ("labels",) if axis == LABELLED else ())
    for name, value in axes[LABELLED].items():
        labels = value.get("labels")
        if labels is not None and (not isinstance(labels, int) or labels < 1):
            raise StudyError(f"axes.labelled.{name}.labels={labels!r}: give the number of labelled subjects, 1 or more")
    _check_fragment("base", values["base"], ())
    _check_arms(values)
    points = _points(axes, values["cells"])
    cells = tuple(_cell(axes, values["base"], point) for point in points)
    name, count = Counter(cell.name for cell in cells).most_common(1)[0]
    if count > 1:
        raise StudyError(f"two cells have the name {name!r}: rename a value of an axis")
    return Study(
        question=values["question"],
        folder=Path(values["folder"]),
        axes={axis: tuple(names) for axis, names in axes.items()},
        cells=cells,
        baseline=values["baseline"],
        contrasts=tuple((a, b) for a, b in values["contrasts"]),
        evaluate=values["evaluate"],
    )


def only(study: Study, choices: Sequence[str]) -> Study:
    """The study with the cells that `AXIS=VALUE,VALUE` texts choose. Raises StudyError."""
    cells = study.cells
    for text in choices:
        axis, _, names = text.partition("=")
        chosen = [name.strip() for name in names.split(",")]
        if axis not in study.axes:
            raise StudyError(f"--only={text}: unknown axis; choose among {', '.join(study.axes)}")
        if unknown := [name for name in chosen if name not in study.axes[axis]]:
            raise StudyError(f"--only={text}: {axis} has no {unknown[0]!r}; choose among {', '.join(study.axes[axis])}")
        cells = tuple(cell for cell in cells if cell.values[axis] in chosen)
    if not cells:
        raise StudyError(f"--only={' '.join(choices)}: the study has no such cell")
    return dataclasses.replace(study, cells=cells, chosen=tuple(choices))


def _points(axes: Mapping[str, Mapping], parts: Sequence[Mapping[str, Sequence[str]]]) -> list[dict[str, str]]:
    """The points of the matrix: of each part the product of its values, where an axis that it does
    not name has all of its own. No part: the whole product.
    """
    points = []
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise StudyError(f"cells: give a tuple of parts, each as {{'arm': ('scratch',)}}; got {parts!r}")
    for part in parts or ({},):
        for axis, names in part.items():
            if axis not in axes:
                raise StudyError(f"cells: unknown axis {axis!r}; choose among {', '.join(axes)}")
            if isinstance(names, str):
                raise StudyError(f"cells: {axis}={names!r}: give a tuple of names")
            if unknown := [name for name in names if name not in axes[axis]]:
                raise StudyError(f"cells: axes.{axis} has no {unknown[0]!r}; choose among {', '.join(axes[axis])}")
        product = itertools.product(*(part.get(axis, names) for axis, names in axes.items()))
        points += [dict(zip(axes, names, strict=True)) for names in product]
    unique = {tuple(point.values()): point for point in points}.values()
    # Seed by seed, and set by set: a study that is cut short is complete for what it has.
    return sorted(unique, key=lambda point: (point[SEED], point[LABELLED], *point.values()))


def _cell(axes: Mapping[str, Mapping], base: Mapping[str, Any], point: Mapping[str, str]) -> Cell:
    fragments = {f"axes.{axis}.{name}": axes[axis][name] for axis, name in point.items()}
    stages = {}
    for stage in STAGES:
        merged: dict[str, Any] = dict(flat(base.get(stage, {})))
        owner: dict[str, str] = {}
        for source, fragment in fragments.items():
            for key, value in flat(fragment.get(stage, {})):
                if key in owner:
                    raise StudyError(f"{owner[key]} and {source} both set {stage}.{key}")
                merged[key], owner[key] = value, source
        config = merged.pop("config", None)
        if config is not None:
            stages[stage] = (config, merged)
    if "segment" not in stages:
        raise StudyError(
            f"cell {'_'.join(point.values())}: nothing sets segment.config, the config of its segmentation"
        )
    return Cell(dict(point), stages, axes[LABELLED][point[LABELLED]].get("labels"))


def _check_name(axis: str, name: Any) -> None:
    if not isinstance(name, str) or not name or not all(c.isascii() and (c.isalnum() or c in "-+_") for c in name):
        raise StudyError(f"axes.{axis}: {name!r}: names are texts, of letters, digits and - + _: they name folders")


def _check_fragment(where: str, fragment: Any, more: tuple[str, ...]) -> None:
    known = (*STAGES, *more)
    if not isinstance(fragment, Mapping) or (unknown := fragment.keys() - set(known)):
        found = ", ".join(sorted(unknown)) if isinstance(fragment, Mapping) else repr(fragment)
        raise StudyError(f"{where}: {found}: give overrides of {' or '.join(STAGES)}")
    for stage in STAGES:
        if own := [key for key in _OWN if key in fragment.get(stage, {})]:
            if own == ["init_from"] and stage == "segment":
                continue  # weights from a file
            raise StudyError(f"{where}.{stage}.{own[0]}: the study sets this key itself")


def _check_arms(values: Mapping[str, Any]) -> None:
    arms = values["axes"][ARM]
    for pair in values["contrasts"]:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise StudyError(f"contrasts: {pair!r}: give pairs of two arms")
    named = [values["baseline"], *itertools.chain(*values["contrasts"])]
    if unknown := [arm for arm in named if arm not in arms]:
        raise StudyError(f"baseline or contrasts: {unknown[0]!r} is not an arm; choose among {', '.join(arms)}")
