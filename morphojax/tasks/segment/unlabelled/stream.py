"""The stream of unlabelled images: whole stacks with the volumes of the table, or single slices of
any plane.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from morphojax import anatomy
from morphojax.data.input.slices import slice_stream
from morphojax.data.input.stacks import stack_stream
from morphojax.data.input.stream import Stream
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables import cells
from morphojax.tasks import cohort, common
from morphojax.tasks.segment.unlabelled.base import UnlabelledSpec
from morphojax.train import devices

CONTROLS = ("none", "shuffled")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What the supervised part of the run uses: its structures, and its subjects, none of which can
    be unlabelled ones.
    """

    structures: tuple[str, ...]
    subjects: np.ndarray


def from_config(
    config: ml_collections.ConfigDict, dataset: Dataset, labelled: Labelled, spec: UnlabelledSpec
) -> Stream:
    """The stream of `config.unlabelled` that the objectives of `spec` need.

    Raises:
        ValueError: an unknown control, a plane without stacks where an objective needs them, or
            nobody without a label (and with a known volume, where an objective needs it). The
            message names the key.
    """
    settings = config.unlabelled
    stacks = any(objective.whole_stacks for objective in spec.objectives.values())
    volumes = any(objective.volumes for objective in spec.objectives.values())
    _check(settings, config.data.plane, stacks, volumes)
    subjects = _unlabelled_subjects(config, dataset, labelled)
    known = None
    if volumes:
        subjects, known = _volumes(dataset, subjects, labelled.structures, tuple(config.input.frames))
        if settings.control == "shuffled":
            known = shuffle(known, subjects, config.seed)
    with_volumes = " with volumes in the table" if volumes else ""
    devices.say(f"{len(subjects)} unlabelled subjects{with_volumes}")
    reading: dict[str, Any] = dict(
        subjects=subjects, frames=tuple(config.input.frames), spec=common.train_spec(config, settings.batch_size)
    )
    if stacks:
        return stack_stream(dataset, plane=config.data.plane, volumes=known, slices=settings.slices, **reading)
    planes = anatomy.parse_planes(config.data.plane)
    return slice_stream(dataset, planes=planes, structures=labelled.structures, labelled=False, **reading)


def shuffle(volumes: np.ndarray, subjects: np.ndarray, seed: int) -> np.ndarray:
    """The permutation control: every one of the subjects gets the volumes of another. volumes: [N,
    phases, S].
    """
    circle = np.random.default_rng((seed, *b"shuffled")).permutation(subjects)
    shuffled = volumes.copy()
    shuffled[circle] = volumes[np.roll(circle, 1)]
    return shuffled


def _unlabelled_subjects(config: ml_collections.ConfigDict, dataset: Dataset, labelled: Labelled) -> np.ndarray:
    everybody = cohort.select_subjects(
        dataset,
        split_names=tuple(config.data.splits),
        subjects=tuple(config.unlabelled.subjects),
        fraction=1.0,
        seed=config.seed,
        key="config.unlabelled.subjects",
    )
    subjects = np.setdiff1d(everybody, labelled.subjects)
    if not len(subjects):
        raise ValueError(
            f"config.unlabelled: all {len(everybody)} subjects are labelled or held out; name others in "
            "config.unlabelled.subjects, or lower config.data.fraction"
        )
    return subjects


def _volumes(
    dataset: Dataset, subjects: np.ndarray, structures: Sequence[str], phases: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the subjects that have a volume in the table, and the volumes of all, float32 [N,
    phases, S] in ml.
    """
    known = cells.volumes(dataset.table, dataset.schema, structures, phases)
    kept = subjects[np.isfinite(known[subjects]).any(axis=(1, 2))]
    if not len(kept):
        raise ValueError(
            f"config.unlabelled: of {len(subjects)} unlabelled subjects none has a volume of {', '.join(structures)} in "
            "the table (columns with `measures` in the data dictionary)"
        )
    return kept, known


def _check(settings: ml_collections.ConfigDict, plane: str, stacks: bool, volumes: bool) -> None:
    devices.check_batch_size(settings.batch_size, key="config.unlabelled.batch_size")
    if settings.control not in CONTROLS:
        raise ValueError(f"config.unlabelled.control={settings.control!r} is unknown: choose {' or '.join(CONTROLS)}")
    if settings.control != "none" and not volumes:
        raise ValueError(
            f"config.unlabelled.control={settings.control!r} has no effect: no objective with a weight reads the table's volumes"
        )
    if stacks and plane != "sax":
        raise ValueError(
            f"config.unlabelled needs whole stacks, as of config.data.plane=sax: {plane} has areas, no volumes"
        )
    if not stacks and settings.slices:
        raise ValueError(
            f"config.unlabelled.slices={settings.slices} has no effect: no objective with a weight needs whole stacks"
        )
