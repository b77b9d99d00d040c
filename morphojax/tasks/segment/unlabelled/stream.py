"""The stream of unlabelled images: whole stacks with the volumes of the table, or single slices of
any plane.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from morphojax.anatomy import LONG_AXIS
from morphojax.data.input.slices import slice_stream
from morphojax.data.input.stacks import stack_stream
from morphojax.data.input.stream import Stream
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables import cells
from morphojax.tasks import cohort, common
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.train import devices

CONTROLS = ("none", "shuffled", "mean", "noise_5", "noise_10", "noise_20")
LARGEST_POSSIBLE = {"ml": 1500.0, "cm2": 200.0}  # no heart has more


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Planes, structures, subjects and streams of the labelled slices."""

    planes: tuple[str, ...]
    structures: tuple[str, ...]
    subjects: common.Subjects
    streams: common.Streams


def make_stream(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    labelled: Labelled,
    objectives: Mapping[str, UnlabelledObjective],
) -> Stream:
    """The stream of `config.unlabelled` that the objectives need.

    Raises:
        ValueError: an unknown control, several planes where an objective needs whole stacks, or no
            unlabelled subject (with a known volume, where an objective needs it). The message
            names the key.
    """
    settings = config.unlabelled
    calibrate = settings.teacher.calibrate
    volumes = calibrate or any(objective.volumes for objective in objectives.values())
    stacks = volumes or any(objective.whole_stacks for objective in objectives.values())
    _check(settings, labelled.planes, stacks, volumes)
    spec = dataclasses.replace(labelled.streams.spec, batch_size=settings.batch_size)
    frames, subjects, known = tuple(config.input.frames), _unlabelled_subjects(config, dataset, labelled), None
    if volumes:
        subjects, known = _volumes(dataset, subjects, labelled, frames)
        known = control(settings.control, known, subjects, config.seed)
    devices.say(f"{len(subjects)} unlabelled subjects{' with volumes in the table' if volumes else ''}")
    images: dict[str, Any] = dict(subjects=subjects, frames=frames, spec=spec)
    if stacks:
        return stack_stream(dataset, plane=labelled.planes[0], volumes=known, slices=settings.slices, **images)
    return slice_stream(dataset, planes=labelled.planes, structures=labelled.structures, labelled=False, **images)


def control(name: str, volumes: np.ndarray, subjects: np.ndarray, seed: int) -> np.ndarray:
    """The volumes [N, phases, S] that a control gives to the subjects.

    - `none`: their own.
    - `shuffled`: each has those of another subject (permutation control).
    - `mean`: all have the geometric mean over the subjects, where their own value is known.
    - `noise_<p>`: their own, each times exp(normal x p / 100).

    Raises ValueError where a single subject has no other to take volumes from.
    """
    changed, random = volumes.copy(), np.random.default_rng((seed, *name.encode()))
    if name == "shuffled":
        if len(subjects) < 2:
            raise ValueError("config.unlabelled.control='shuffled' needs two unlabelled subjects with volumes, or more")
        order = random.permutation(subjects)
        changed[order] = volumes[np.roll(order, 1)]
    elif name == "mean":
        logs = np.ma.masked_invalid(np.log(volumes[subjects]))
        mean = np.exp(logs.mean(0).filled(np.nan))
        changed[subjects] = np.where(np.isfinite(volumes[subjects]), mean, np.nan)
    elif name.startswith("noise_"):
        percent = float(name.removeprefix("noise_"))
        changed *= np.exp(random.normal(0, percent / 100, volumes.shape)).astype(volumes.dtype)
    return changed


def _unlabelled_subjects(config: ml_collections.ConfigDict, dataset: Dataset, labelled: Labelled) -> np.ndarray:
    """Those of `config.unlabelled.subjects` (all of the splits, if empty) that are neither labelled
    nor held out.
    """
    pool, named = labelled.subjects.pool, tuple(config.unlabelled.subjects)
    if named:
        key, splits = "config.unlabelled.subjects", tuple(config.data.splits)
        pool = cohort.select_subjects(
            dataset, split_names=splits, subjects=named, fraction=1.0, seed=config.seed, key=key
        )
    subjects = np.setdiff1d(pool, np.union1d(labelled.subjects.train, labelled.subjects.validation))
    if not len(subjects):
        raise ValueError(
            f"config.unlabelled: all {len(pool)} subjects are labelled or held out; name others in "
            "config.unlabelled.subjects, or lower config.data.fraction"
        )
    return subjects


def _volumes(
    dataset: Dataset, subjects: np.ndarray, labelled: Labelled, phases: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the subjects that have a volume in the table (in a long-axis plane: an area), and
    the values of all, float32 [N, phases, S].
    """
    (plane,), structures = labelled.planes, labelled.structures
    if plane in LONG_AXIS:
        name, unit, example = "an area", "cm2", f"{structures[0]}:{plane}:ED:cm2"
        known = cells.areas(dataset.table, dataset.schema, structures, phases, plane)
    else:
        name, unit, example = "a volume", "ml", f"{structures[0]}:ED:ml"
        known = cells.volumes(dataset.table, dataset.schema, structures, phases)
    if impossible := int((known[subjects] > LARGEST_POSSIBLE[unit]).sum()):
        logging.warning(
            "%d values of the table above %g %s cannot be right and count as unknown",
            impossible,
            LARGEST_POSSIBLE[unit],
            unit,
        )
        known = np.where(known > LARGEST_POSSIBLE[unit], np.nan, known)
    kept = subjects[np.isfinite(known[subjects]).any(axis=(1, 2))]
    if not len(kept):
        raise ValueError(
            f"config.unlabelled: of {len(subjects)} unlabelled subjects none has {name} of {', '.join(structures)} in "
            f"the table (columns with `measures` in the data dictionary, such as {example})"
        )
    return kept, known


def _check(settings: ml_collections.ConfigDict, planes: tuple[str, ...], stacks: bool, volumes: bool) -> None:
    devices.check_batch_size(settings.batch_size, key="config.unlabelled.batch_size")
    if settings.control not in CONTROLS:
        raise ValueError(f"config.unlabelled.control={settings.control!r} is unknown: choose {', '.join(CONTROLS)}")
    if settings.control != "none" and not volumes:
        raise ValueError(
            f"config.unlabelled.control={settings.control!r} has no effect: no objective with a weight reads the table's volumes"
        )
    if stacks and len(planes) > 1:
        raise ValueError(
            f"config.unlabelled needs whole stacks of one plane: give one of {', '.join(planes)} in config.data.plane"
        )
    if not stacks and settings.slices:
        raise ValueError(
            f"config.unlabelled.slices={settings.slices} has no effect: no objective with a weight needs whole stacks"
        )
