"""How many images a run sees in a step."""

from collections.abc import Mapping
from typing import Any

from morphojax import anatomy
from morphojax.data.input.subjects import ImageSpec

TWO_VIEWS = frozenset(("simclr", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "regional"))  # objectives
# Task -> what `images_per_step` counts of it.
COUNTED = {
    "segment": "labelled images seen",
    "pretrain": "images seen (images x views)",
    "probe": "images seen",
}


def images_per_step(config: Mapping[str, Any]) -> int:
    """Images of a batch of training, from the `config.json` of a run.

    - Segmentation: labelled slices. Unlabelled slices beside them do not count: their number
      depends on the dataset's largest stack and on the stage of the run.
    - Pretraining: subjects x images of a subject x views. A view that is encoded again, with masked
      patches or by an EMA teacher, counts once.
    - Probe: subjects x images of a subject.

    The padding of a short stack and a dropped plane count as images.

    Raises one of ValueError, KeyError, TypeError and AttributeError for a config that is none of
    these tasks, or lacks a key.
    """
    task = config["task"]
    if task not in COUNTED:
        raise ValueError(f"is of the unknown task {task!r}")
    if task == "segment":
        return int(config["batch_size"])
    settings = dict(config["input"])
    images = ImageSpec(
        anatomy.parse_planes(config["data"]["plane"]), **settings | {"frames": tuple(settings["frames"])}
    )
    two = task == "pretrain" and not TWO_VIEWS.isdisjoint(config["objectives"])
    return int(config["batch_size"]) * len(images.image_planes) * (2 if two else 1)
