"""Starting from a pretrained encoder, with a report of what was taken and what was not, and why."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from morphojax.anatomy import PHASES
from morphojax.data.errors import NamedError
from morphojax.models import published
from morphojax.train import checkpoint, devices, weights
from morphojax.train.run import check_same_images

PyTree = Any

MODULES = ("encoder", "decoder")  # the modules that pretraining and fine-tuning share, by name
COUNTER = "num_batches_tracked"  # a counter of PyTorch's BatchNorm, which ours does not have
OF_PLANE = "encoders_"  # prefix of flax's names for the items of PlaneEncoders.encoders


class TransferError(NamedError):
    """Nothing of a checkpoint fits the model."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a transfer did with each array, by its name (`params/...` or `batch_stats/...`)."""

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]  # with what was done
    differing: tuple[str, ...]  # with the two shapes: kept as initialised
    absent: tuple[str, ...]  # in the model, not in the checkpoint: kept as initialised
    unused: tuple[str, ...]  # in the checkpoint, not in the model

    def text(self, origin: str) -> str:
        """For people: a line per outcome, unused modules by their first name."""
        unused = sorted({name.split("/")[1] for name in self.unused})
        modules = sorted({name.split("/")[1] for name in self.loaded})
        lines = [
            f"transfer from {origin}",
            f"  loaded     {len(self.loaded)} arrays of: {', '.join(modules)}",
            f"  adapted    {len(self.adapted)}" + "".join(f"\n    {name}" for name in self.adapted),
            f"  new        {len(self.absent)} arrays that the checkpoint lacks" + _some(self.absent),
            f"  new        {len(self.differing)} arrays whose shape differs" + _some(self.differing),
            f"  not used   {len(self.unused)} arrays of: {', '.join(unused) or 'nothing'}",
            "  everything else starts from its random initialisation",
        ]
        return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    return "".join(f"\n    {name}" for name in names[:8]) + ("\n    ..." if len(names) > 8 else "")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run takes its initial weights from.

    path:       a run directory, a checkpoint folder or a weight file (`config.init_from`); "" for
                random weights.
    checkpoint: of a run: `last` or `best` (`config.init_checkpoint`).
    weights:    of a checkpoint: `model` or `ema` (`config.init_weights`).
    """

    path: str
    checkpoint: str = "last"
    weights: str = "model"


def load(origin: Origin, images: Mapping[str, Any], target: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """The arrays of an origin that fit the model, for `merge`; {} without an origin. A report is
    printed.

    Args:
        images: the preprocessing of this run, which must be that of the origin.
        target: {"params": ..., "batch_stats": ...} of the model, as shapes.

    Raises:
        RunError, CheckpointError, WeightsError, TransferError: another preparation of the images,
            no checkpoint, no weight file, or weights that do not fit.
    """
    if not origin.path:
        return {}
    if weights.is_weights(origin.path):
        taken, report = transfer_published(origin.path, target)
        devices.say(report)
        return taken
    folder = checkpoint.find(origin.path, origin.checkpoint)
    check_same_images(images, folder.parent.parent)
    source = checkpoint.load_variables(folder, weights=origin.weights)
    if not plane_encoders(target):
        source = of_plane(source, images["planes"], "config.data.plane")
    taken, transferred = transfer_modules(source, target)
    devices.say(transferred.text(origin.path))
    return taken


def plane_encoders(variables: Mapping[str, PyTree]) -> tuple[str, ...]:
    """The planes that have an encoder each (models.towers.PlaneEncoders); none where one serves
    all.
    """
    names = variables["params"].get("encoder", {})
    return tuple(name.removeprefix(OF_PLANE) for name in names if name.startswith(OF_PLANE))


def of_plane(variables: Mapping[str, PyTree], planes: Sequence[str], key: str) -> dict[str, PyTree]:
    """The variables with the encoder of one plane in place of an encoder for each plane; unchanged
    where planes share one.

    Raises TransferError, naming `key`, where there are several planes, or no encoder of that plane.
    """
    there = plane_encoders(variables)
    if there and (len(planes) != 1 or planes[0] not in there):
        raise TransferError(
            f"the checkpoint has an encoder for each of {', '.join(sorted(there))}, and the encoder of one plane is needed, "
            f"not of {', '.join(planes) or 'none'}: set {key} to one of them"
        )
    return {
        name: {**tree, "encoder": tree["encoder"][OF_PLANE + planes[0]]} if there and "encoder" in tree else tree
        for name, tree in variables.items()
    }


def transfer_modules(
    source: Mapping[str, PyTree], target: Mapping[str, PyTree]
) -> tuple[dict[str, np.ndarray], Report]:
    """The arrays of the source's MODULES that take the place of the target's, wherever name and
    shape agree.

    A first convolution with another number of input channels is adapted: its kernel is summed over
    the source's channels and divided by the number of target channels, so that a grey image
    repeated in all channels gives the same output.

    Args:
        source: {"params": ..., "batch_stats": ...} of a checkpoint.
        target: the same of the model, as arrays or shapes.

    Returns:
        {"params/encoder/...": array} for `merge`, and a report of every array of these modules. A
        module that the source lacks completely (a decoder, after a contrast of pooled features) is
        not reported.

    Raises:
        TransferError: no array of the encoder was found with its shape.
    """
    have = flatten(source)
    there = {name.split("/")[1] for name in have} | {"encoder"}
    want = {n: v for n, v in flatten(target).items() if n.split("/")[1] in there.intersection(MODULES)}
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
    if not any(name.split("/")[1] == "encoder" for name in loaded):
        raise TransferError(
            "config.init_from: nothing in the checkpoint fits the encoder of this config (config.model.encoder, config.model.width). "
            f"First differences: {'; '.join([*differing, *(f'{name}: not in the checkpoint' for name in absent)][:3])}"
        )
    return taken, Report(*(tuple(x) for x in (loaded, adapted, differing, absent, sorted(have.keys() - want.keys()))))


def digest(taken: Mapping[str, np.ndarray]) -> dict[str, str]:
    """{"sha256": hash of the names, shapes, types and bytes of transferred arrays}.

    By it a resumed run checks that it starts from the same weights.
    """
    found = hashlib.sha256()
    for name, array in sorted(taken.items()):
        found.update(f"{name} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return {"sha256": found.hexdigest()}


def transfer_published(path: str, target: Mapping[str, PyTree]) -> tuple[dict[str, np.ndarray], str]:
    """The encoder of a published weight file (see `weights.read` and `published.to_ours`), for
    `merge`, and a report for people.

    The file must hold every array of the target's encoder; only modules that nobody publishes stay
    as initialised. Where each plane has an encoder, each starts from the file.

    Raises:
        WeightsError: the file cannot be read.
        TransferError: its weights are of another encoder; what is missing and what is of another
            shape is named.
    """
    own, report = {}, ""
    for plane in plane_encoders(target):
        part, report = transfer_published(path, of_plane(target, (plane,), ""))
        own |= {n.replace("/encoder/", f"/encoder/{OF_PLANE}{plane}/", 1): array for n, array in part.items()}
    if own:
        return own, f"{report}\n  so for each of {', '.join(plane_encoders(target))}"
    arrays = weights.read(path)
    shapes = {n: tuple(v.shape) for n, v in flatten(target).items() if n.split("/")[1] == "encoder"}
    bare = {name.replace("/encoder/", "/", 1): shape for name, shape in shapes.items()}
    try:
        recognised = published.recognise(arrays)
        own, adapted = published.to_ours(recognised, bare)
    except published.PublishedError as error:
        raise TransferError(f"config.init_from={path}: {error}") from error
    taken = {name.replace("/", "/encoder/", 1): array for name, array in own.items()}
    fresh, unused = tuple(sorted(shapes.keys() - taken.keys())), published.left_over(recognised, bare)
    counters = sum(name.endswith(COUNTER) for name in unused)
    under = f", under {recognised.prefix.rstrip('.')}" if recognised.prefix else ""
    lines = [
        f"transfer from {path}: a {recognised.family}, names of {recognised.naming}{under}",
        f"  loaded     {len(taken)} arrays of the encoder",
        f"  adapted    {len(adapted)}" + _some(adapted),
        f"  new        {len(fresh)} arrays of the encoder that none publishes" + _some(fresh),
        f"  not used   {len(unused)} arrays: {counters} counters of batches, and {len(unused) - counters} others"
        + _some(tuple(name for name in unused if not name.endswith(COUNTER))),
        "  images enter as 0..1: means and deviations that the file's authors normalised by are not applied",
        "  everything else starts from its random initialisation",
    ]
    return taken, "\n".join(lines)


def merge(variables: Mapping[str, PyTree], taken: Mapping[str, Any]) -> dict[str, PyTree]:
    """The variables with the taken arrays in their places."""
    return flax.traverse_util.unflatten_dict(flatten(variables) | dict(taken), sep="/")


def flatten(variables: Mapping[str, PyTree]) -> dict[str, Any]:
    """{"params/encoder/...": array}."""
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def _differs_in_image_channels(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two kernel shapes are those of a first convolution for images of different channels.

    Only a first convolution has so few input channels; one of the two may have many, the frames of
    a cine.
    """
    return len(a) == len(b) == 4 and (*a[:2], a[3]) == (*b[:2], b[3]) and min(a[2], b[2]) <= len(PHASES)
