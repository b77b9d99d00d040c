"""The variables of a model as one safetensors file, in the place of a checkpoint: to publish a run.

It holds no optimizer's state: a run can start from it, and none can be resumed from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util

from morphojax.train import digests, weights

NAME = "model.safetensors"


def write(folder: Path, variables: Mapping[str, Any]) -> None:
    """Makes the checkpoint folder, with the file and its digest. Raises WeightsError."""
    folder.mkdir(parents=True, exist_ok=True)
    flat: Any = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    weights.write(folder / NAME, flat)
    digests.write(folder)


def read(folder: Path) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} as NumPy arrays. Raises WeightsError."""
    return flax.traverse_util.unflatten_dict(weights.read(folder / NAME), sep="/")
