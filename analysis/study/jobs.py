"""The runs of a study: a segmentation per cell, and the pretrainings that cells share."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from analysis.study.errors import StudyError
from analysis.study.identity import identity
from analysis.study.spec import Cell, Study
from morphojax.tasks import config_files
from morphojax.train.run import FREE_KEYS

_NO_RESULT = (*FREE_KEYS, "init_from")  # what a run starts from has an identity of its own
_NO_COST = ("workdir", "init_from", "seed", "data.subjects", "data.fraction", "unlabelled.control", "table.control")


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of the study.

    name: unique in the study. run: its directory. identity: a digest of all that its training
    depends on. cost_key: equal for runs that take as long. needs: the pretraining it starts from.
    cell: None for a pretraining.
    """

    name: str
    run: Path
    config: str
    overrides: Mapping[str, Any]
    resolved: Mapping[str, Any]
    identity: str
    cost_key: str
    needs: "Job | None" = None
    cell: Cell | None = None
    evaluate: Mapping[str, Any] | None = None

    def beside(self, kind: str) -> Path:
        """The file of this job in a folder of the study: its log or its lock. Makes the folder."""
        folder = self.run.parent.parent / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / self.run.name

    def train(self, run: Path | None = None, **changes: Any) -> list[str]:
        """Module and flags of the training. changes: further overrides, of undotted keys."""
        values = dict(self.overrides) | changes | {"workdir": str(run or self.run)}
        return ["morphojax.main", f"--config={self.config}", *(f"--config.{k}={v}" for k, v in values.items())]

    def score(self, run: Path | None = None) -> list[str] | None:
        """Module and flags of the scoring; None for a pretraining."""
        if self.evaluate is None:
            return None
        return ["morphojax.evaluate", f"--run={run or self.run}", *(f"--{k}={v}" for k, v in self.evaluate.items())]

    def commands(self) -> list[list[str]]:
        return [command for command in (self.train(), self.score()) if command]


def plan(study: Study) -> list[Job]:
    """The jobs in the order in which one worker runs them, each after what it needs.

    Cells whose resolved pretrainings are equal share one. Raises StudyError, naming the cell, for
    a config that does not exist or an unknown key.
    """
    loaded: dict[str, ml_collections.ConfigDict] = {}
    pretrainings: dict[str, Job] = {}
    jobs: list[Job] = []
    for cell in study.cells:
        needed = None
        if "pretrain" in cell.stages:
            needed = _pretraining(study, cell, loaded)
            if needed.identity not in pretrainings:
                pretrainings[needed.identity] = needed
                jobs.append(needed)
            needed = pretrainings[needed.identity]
        jobs.append(_segmentation(study, cell, needed, loaded))
    return jobs


def _pretraining(study: Study, cell: Cell, loaded: dict[str, ml_collections.ConfigDict]) -> Job:
    resolved, config, overrides = _resolve(cell, "pretrain", loaded)
    digest = identity(resolved, _NO_RESULT)
    return Job(
        name=f"pretraining of {cell.name}",
        run=study.folder / "pretraining" / digest,
        config=config,
        overrides=overrides,
        resolved=resolved,
        identity=digest,
        cost_key=identity(resolved, _NO_COST),
    )


def _segmentation(study: Study, cell: Cell, needs: Job | None, loaded: dict[str, ml_collections.ConfigDict]) -> Job:
    resolved, config, overrides = _resolve(cell, "segment", loaded)
    if needs is not None:
        if resolved["init_from"]:
            raise StudyError(f"cell {cell.name}: has a pretraining, and segment.init_from as well; give one of them")
        overrides = {**overrides, "init_from": str(needs.run)}
    own = identity(resolved, _NO_RESULT)
    start = needs.identity if needs is not None else resolved["init_from"]
    return Job(
        name=cell.name,
        run=study.folder / "cells" / cell.name,
        config=config,
        overrides=overrides,
        resolved=resolved,
        identity=identity({"config": own, "start": start}),
        cost_key=identity(resolved, _NO_COST),
        needs=needs,
        cell=cell,
        evaluate=study.evaluate,
    )


def _resolve(
    cell: Cell, stage: str, loaded: dict[str, ml_collections.ConfigDict]
) -> tuple[dict[str, Any], str, Mapping[str, Any]]:
    """The resolved config of a stage, its file and the overrides. loaded: configs read before."""
    name, overrides = cell.stages[stage]
    if name not in loaded:
        loaded[name] = config_files.load(name)
    config = loaded[name].copy_and_resolve_references().lock()
    config_files.override(config, overrides, f"cell {cell.name}, {stage}")
    if config.task != stage:
        raise StudyError(f"cell {cell.name}: {name} is a config of task {config.task!r}, not {stage!r}")
    return config.to_dict(), name, overrides
