"""The objectives that train a segmentation on unlabelled images, by the names that a config gives
them.

A new objective is one file here and one row in OBJECTIVES: a function of the objective's own
settings that returns an `UnlabelledObjective`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from morphojax.augment import Augmentation
from morphojax.data.input.stream import Joined
from morphojax.data.store.dataset import Dataset
from morphojax.tasks.common import Streams
from morphojax.tasks.segment.unlabelled.agreeing_stacks import agreeing_stacks
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective, UnlabelledSpec
from morphojax.tasks.segment.unlabelled.batch import BatchSpec
from morphojax.tasks.segment.unlabelled.copy_paste import copy_paste
from morphojax.tasks.segment.unlabelled.entropy import entropy
from morphojax.tasks.segment.unlabelled.schedule import Schedule
from morphojax.tasks.segment.unlabelled.stream import Labelled, make_stream
from morphojax.tasks.segment.unlabelled.strong_views import strong_views
from morphojax.tasks.segment.unlabelled.teacher import TeacherSpec
from morphojax.tasks.segment.unlabelled.volume_consistency import volume_consistency

OBJECTIVES: dict[str, Callable[..., UnlabelledObjective]] = {
    "volume_consistency": volume_consistency,
    "entropy": entropy,
    "agreeing_stacks": agreeing_stacks,
    "copy_paste": copy_paste,
    "strong_views": strong_views,
}
KEY = "config.unlabelled.objectives"


def add_unlabelled(
    config: ml_collections.ConfigDict, dataset: Dataset, labelled: Labelled, augmentation: Augmentation
) -> tuple[Streams, UnlabelledSpec]:
    """The streams of a run with unlabelled images in every training batch, under `unlabelled`, and
    the spec of the unlabelled objectives.

    augmentation: of the labelled slices. Raises ValueError, naming the key.
    """
    objectives = from_config(config.unlabelled.objectives.to_dict())
    if needs_ema := [name for name, objective in objectives.items() if objective.ema and not config.ema.decay]:
        raise ValueError(f"{KEY}.{needs_ema[0]} needs EMA weights as teacher: set config.ema.decay, 0.99 for example")
    teacher = _teacher(config.unlabelled.teacher, objectives)
    images, streams = make_stream(config, dataset, labelled, objectives), labelled.streams
    weak: Any = dataclasses.replace(augmentation.geometric, scale=(1.0, 1.0), crop=None)
    batch = BatchSpec(weak, augmentation, config.seed, labelled.structures, teacher)
    spec = UnlabelledSpec(objectives, batch, streams.steps)
    joined = Joined({"labelled": streams.train, "unlabelled": images})  # pyrefly: ignore
    return dataclasses.replace(streams, train=joined), spec


def _teacher(settings: ml_collections.ConfigDict, objectives: Mapping[str, UnlabelledObjective]) -> TeacherSpec:
    try:
        spec = TeacherSpec(**settings.to_dict())
    except ValueError as error:
        raise ValueError(f"config.unlabelled.teacher.{error}") from error
    readers = [name for name in OBJECTIVES if name in objectives and objectives[name].reads_pseudo_labels]
    if spec.calibrate and not readers:
        raise ValueError(
            "config.unlabelled.teacher.calibrate has no effect: give an objective that learns from pseudo-labels a "
            "weight, such as copy_paste"
        )
    return spec


def from_config(objectives: Mapping[str, Mapping[str, Any]]) -> dict[str, UnlabelledObjective]:
    """The objectives of `config.unlabelled.objectives`, {name: settings}; those of weight 0 are
    left out.

    Every objective takes `weight`, `start` and `ramp` (see `Schedule`) beside its own settings.

    Raises:
        ValueError: an unknown name or setting, a setting out of range, or no objective with a
            weight. The message names the key.
    """
    chosen = {}
    for name, settings in objectives.items():
        if name not in OBJECTIVES:
            raise ValueError(f"{KEY}.{name} is unknown: choose among {', '.join(OBJECTIVES)}")
        schedule = {key: settings[key] for key in Schedule.SETTINGS if key in settings}
        own = {key: value for key, value in settings.items() if key not in schedule}
        try:
            objective = dataclasses.replace(OBJECTIVES[name](**own), schedule=Schedule(**schedule))
        except TypeError as error:
            known = (*Schedule.SETTINGS, *inspect.signature(OBJECTIVES[name]).parameters)
            raise ValueError(f"{KEY}.{name}: {error}. It takes {', '.join(known)}") from error
        except ValueError as error:
            raise ValueError(f"{KEY}.{name}.{error}") from error
        if objective.schedule.weight:
            chosen[name] = objective
    if not chosen:
        raise ValueError(f"{KEY}: all weights are 0; give one of {', '.join(OBJECTIVES)} a weight, or set batch_size=0")
    return chosen
