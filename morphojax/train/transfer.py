"""Starting from a pretrained encoder, with a report of what was taken and what was not, and why."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from morphojax.anatomy import PHASES

PyTree = Any


class TransferError(ValueError):
    """Nothing of a checkpoint fits the model."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Names of arrays (`params/...` or `batch_stats/...`) by what became of them."""

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]  # with what was done
    differing: tuple[str, ...]  # with the two shapes: kept as initialised
    absent: tuple[str, ...]  # in the model's encoder, not in the checkpoint: kept as initialised
    unused: tuple[str, ...]  # in the checkpoint, not in the model's encoder

    def text(self, origin: str) -> str:
        """For people: a line per outcome, unused modules by their first name."""
        unused = sorted({name.split("/")[1] for name in self.unused})
        lines = [
            f"transfer from {origin}",
            f"  loaded     {len(self.loaded)} arrays of the encoder",
            f"  adapted    {len(self.adapted)}" + "".join(f"\n    {name}" for name in self.adapted),
            f"  new        {len(self.absent)} arrays that the checkpoint lacks" + _some(self.absent),
            f"  new        {len(self.differing)} arrays whose shape differs" + _some(self.differing),
            f"  not used   {len(self.unused)} arrays of: {', '.join(unused) or 'nothing'}",
            "  the decoder and the head start from their random initialisation",
        ]
        return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    return "".join(f"\n    {name}" for name in names[:8]) + ("\n    ..." if len(names) > 8 else "")


def transfer_encoder(
    source: Mapping[str, PyTree], target: Mapping[str, PyTree]
) -> tuple[dict[str, np.ndarray], Report]:
    """The arrays of the source's `encoder` that take the place of the target's, wherever name and shape agree.

    A first convolution with another number of input channels is adapted: its kernel is summed over the source's channels and shared
    evenly among the target's, so that a grey image shown in every channel gives what it gave before.

    Args:
        source: {"params", "batch_stats"} of a checkpoint.
        target: the same of the model, as arrays or shapes.

    Returns:
        {"params/encoder/...": array} for `merge`, and what became of every array.

    Raises:
        TransferError: no array of the encoder was found with its shape.
    """
    have, want = flatten(source), {n: v for n, v in flatten(target).items() if n.split("/")[1] == "encoder"}
    taken: dict[str, np.ndarray] = {}
    loaded, adapted, differing, absent = [], [], [], []
    for name, old in want.items():
        if name not in have:
            absent.append(name)
            continue
        new = np.asarray(have[name])
        if new.shape == old.shape:
            loaded.append(name)
        elif _differs_in_image_channels(new.shape, old.shape):
            channels = old.shape[2]
            adapted.append(f"{name}: {new.shape[2]} input channels summed, shared among {channels}")
            new = np.repeat(new.sum(axis=2, keepdims=True) / channels, channels, axis=2)
        else:
            differing.append(f"{name}: {new.shape} in the checkpoint, {old.shape} in the model")
            continue
        taken[name] = new.astype(old.dtype)
    if not loaded:
        raise TransferError(
            "config.init_from: nothing in the checkpoint fits the encoder of this config (config.model.encoder, config.model.width). "
            f"First differences: {'; '.join([*differing, *(f'{name}: not in the checkpoint' for name in absent)][:3])}"
        )
    return taken, Report(*(tuple(x) for x in (loaded, adapted, differing, absent, sorted(have.keys() - want.keys()))))


def merge(variables: Mapping[str, PyTree], taken: Mapping[str, Any]) -> dict[str, PyTree]:
    """The variables with the taken arrays in their places."""
    return flax.traverse_util.unflatten_dict(flatten(variables) | dict(taken), sep="/")


def flatten(variables: Mapping[str, PyTree]) -> dict[str, Any]:
    """{"params/encoder/...": array}."""
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def _differs_in_image_channels(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Two kernels of a first convolution: only there are the input channels those of an image, so few."""
    few = len(PHASES)
    return len(a) == len(b) == 4 and (*a[:2], a[3]) == (*b[:2], b[3]) and a[2] <= few and b[2] <= few
