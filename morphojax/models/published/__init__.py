"""Converts published weights of image encoders to our parameters and back, as flat dicts of NumPy
arrays.

Published: {"conv1.weight": array} in PyTorch's layout. Ours: {"params/stem_conv/kernel": array},
also "batch_stats/...". Families: ResNet, ConvNeXt, Swin, ViT with a class token and learned
positions.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from morphojax.models.attention import resize_positions
from morphojax.models.published.convolutional import CONVNEXT, RESNET
from morphojax.models.published.naming import Family, Naming, by_naming, downsampling
from morphojax.models.published.transformers import SWIN, VIT

FAMILIES = (RESNET, CONVNEXT, SWIN, VIT)  # Swin before ViT: its block names end like ViT's
# If a file has several encoders: the image encoder that was trained by gradients.
_PREFERRED = ("encoder_imaging.", "online_network.", "encoder_q.")
_UNUSED = re.compile(r".*(num_batches_tracked|relative_position_index|attn_mask)")


class PublishedError(ValueError):
    """The weights are of an unknown or different encoder, or transformers does not have the encoder
    to export.
    """


@dataclasses.dataclass(frozen=True)
class Published:
    """An encoder found in a file.

    tensors: by their names in transformers' weight files. others: the file's names that are not
    part of the encoder.
    """

    family: str
    naming: str
    prefix: str
    tensors: Mapping[str, np.ndarray]
    others: tuple[str, ...]


def recognise(arrays: Mapping[str, np.ndarray]) -> Published:
    """Finds the encoder in a file by its names, under any prefix (`model.`, `module.backbone.`,
    ...).

    Raises PublishedError if there is none, or several and no prefix shows which one to use.
    """
    arrays = split_projections(arrays)
    family, naming, prefix = _find(list(arrays))
    tensors, others = {}, []
    for name, array in arrays.items():
        hub = by_naming(name.removeprefix(prefix), naming) if name.startswith(prefix) else None
        if hub is None or _UNUSED.fullmatch(name) or hub in tensors:
            others.append(name)
        else:
            tensors[hub] = array
    return Published(family.title, naming.title, prefix, _merging_last(tensors), tuple(others))


def _find(names: list[str]) -> tuple[Family, Naming, str]:
    for family in FAMILIES:
        for naming in family.namings:
            prefixes = [n.removesuffix(naming.anchor) for n in names if n.endswith(naming.anchor)]
            prefixes = sorted(p for p in prefixes if not p or p.endswith("."))
            chosen = [p for p in prefixes if any(word in p for word in _PREFERRED)]
            candidates = chosen or prefixes
            if len(candidates) > 1:
                raise PublishedError(
                    f"{len(candidates)} encoders, under {', '.join(candidates)}: keep one of them in the file"
                )
            if candidates:
                return family, naming, candidates[0]
    examples = ", ".join(names[:5]) or "nothing"
    raise PublishedError(f"no encoder of a known family ({', '.join(f.title for f in FAMILIES)}): it holds {examples}")


def _merging_last(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm >= 0.9 merges patches at the start of a stage, transformers at the end: renames if the
    first stage has no merging.
    """
    merging = [n for n in tensors if ".downsample." in n and n.startswith("encoder.layers.")]
    if not merging or any(n.startswith("encoder.layers.0.") for n in merging):
        return tensors
    return {downsampling(name): array for name, array in tensors.items()}


def split_projections(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with separate names for query, key and value, also if the file joins them in one
    array.

    Raises PublishedError if a joined array does not divide into three.
    """
    result = {}
    for name, array in arrays.items():
        if joined := re.fullmatch(r"(.*\.)qkv(\.weight|\.bias)", name):
            if not array.ndim or len(array) % 3:
                raise PublishedError(f"{name}: {array.shape} is not query, key and value")
            parts = np.split(array, 3)
            result |= {f"{joined[1]}{x}{joined[2]}": p for x, p in zip(("query", "key", "value"), parts, strict=True)}
            continue
        for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out")):
            name = name.replace(f".attention.{theirs}.", f".attention.{ours}.")
        result[name] = array
    return result


def family_of(names: Iterable[str]) -> Family | None:
    """The family that has all of our names (`params/stem_conv/kernel`); None if no library
    publishes such an encoder.
    """
    bare = {name.partition("/")[2] for name in names}
    for family in FAMILIES:
        known = all(family.published(n) or n.startswith(family.own or "\0") for n in bare)
        if known and all(n in bare for n in family.required):
            return family
    return None


def to_ours(source: Published, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a file in our names and layout, float32.

    If the number of input channels differs, the first kernel is summed over its channels and
    divided evenly among ours: a grey image repeated in every channel then gives the same features
    as in the published encoder. Positions of another (square) grid are interpolated
    (`resize_positions`), except that of the class token.

    Args:
        shapes: of our parameters and statistics, by name.

    Returns: The arrays by our names, without modules that only we have, and a sentence for each
        adaptation.

    Raises: PublishedError: another family; tensors missing, of other shapes, or of more layers.
        Names ten of each at most.
    """
    family = family_of(shapes)
    if family is None or family.title != source.family:
        raise PublishedError(
            f"weights of another architecture: a {source.family} (names: {source.naming}), the encoder of the config is "
            + (f"a {family.title}" if family else "of a kind that is not published")
        )
    taken, adapted, missing, misshapen, used = {}, [], [], [], set()
    for name, shape in sorted(shapes.items(), reverse=True):  # parameters before statistics
        bare = name.partition("/")[2]
        hub = family.published(bare)
        if hub is None:
            continue
        if hub not in source.tensors:
            missing.append(f"{name} ({hub})")
            continue
        used.add(hub)
        array = source.tensors[hub].astype(np.float32)
        if bare == family.stem:
            array, note = _adapt_channels(array, shape)
        elif bare == "positions":
            array, note = _adapt_positions(array, shape)
        else:
            note = ""
        array = _layout(bare, array, shape)
        if array.shape != shape:
            misshapen.append(f"{name}: {array.shape} in the file, {shape} in the config's encoder")
        taken[name] = array
        adapted += [f"{name}: {note}"] if note else []
    deeper = [n for n in source.tensors if n not in used and n.startswith("encoder.")]
    problems = [
        ("not in the file", missing),
        ("of another shape", misshapen),
        ("of layers that the config's encoder does not have", deeper),
    ]
    if any(names for _, names in problems):
        details = [f"{len(names)} {what}: " + "; ".join(names[:10]) for what, names in problems if names]
        raise PublishedError(
            f"a {source.family} of another size (config.model.encoder, config.model.width). " + ". ".join(details)
        )
    return taken, tuple(adapted)


def left_over(source: Published, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Names in a file that our encoder does not use: heads, counters, other modules."""
    family = family_of(shapes)
    used = {family.published(name.partition("/")[2]) for name in shapes} if family else set()
    return (*source.others, *(source.prefix + name for name in source.tensors if name not in used))


def to_hugging_face(variables: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Our encoder in the names and layout of transformers: the exact inverse of `to_ours`.

    Args:
        variables: of the encoder, by our names.

    Returns:
        The tensors, and our names that transformers does not have (the pyramid of a ViT).

    Raises: PublishedError: an encoder that transformers does not have, such as a ViT with fixed
        positions.
    """
    family = family_of(variables)
    if family is None:
        raise PublishedError(
            "transformers has no such encoder: it knows ResNet, ConvNeXt, Swin, and a ViT with class token and learned positions"
        )
    tensors, kept = {}, []
    for name, array in variables.items():
        bare = name.partition("/")[2]
        if hub := family.published(bare):
            tensors[hub] = np.ascontiguousarray(_torch_layout(bare, np.asarray(array)))
        else:
            kept.append(name)
    counters = [n.replace("running_mean", "num_batches_tracked") for n in tensors if n.endswith("running_mean")]
    return tensors | {n: np.zeros((), np.int64) for n in counters}, tuple(kept)


def _adapt_channels(kernel: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """PyTorch's kernel [D,C,y,x] with the number of channels C of our shape ([y,x,C,D] or
    [y*x*C,D]).
    """
    if kernel.ndim != 4:
        return kernel, ""
    have, wanted = kernel.shape[1], int(np.prod(shape)) // (shape[-1] * kernel.shape[2] * kernel.shape[3])
    if have == wanted or not wanted:
        return kernel, ""
    adapted = np.repeat(kernel.sum(1, keepdims=True) / wanted, wanted, axis=1)
    return adapted, f"{have} input channels summed, shared among {wanted}"


def _adapt_positions(positions: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Positions [1,1+P,D] for another number of patches; both grids must be square."""
    if positions.ndim != 3 or positions.shape == shape or positions.shape[2] != shape[2]:
        return positions, ""
    have, wanted = (round((n - 1) ** 0.5) for n in (positions.shape[1], shape[1]))
    if have**2 + 1 != positions.shape[1] or wanted**2 + 1 != shape[1]:
        return positions, ""
    grid = np.asarray(resize_positions(jnp.asarray(positions[0, 1:].reshape(have, have, -1)), wanted, wanted))
    resized = np.concatenate([positions[:, :1], grid.reshape(1, -1, shape[2])], 1)
    return resized, f"positions of {have}x{have} patches interpolated to {wanted}x{wanted}"


def _layout(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array in PyTorch's layout, in ours; reshaped to our shape if the number of values
    agrees.
    """
    if name.endswith("kernel"):
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    merges = array.ndim != len(shape)
    return array.reshape(shape) if merges and array.size == np.prod(shape) else array


def _torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    *module, leaf = name.split("/")
    if leaf == "bias":
        return array.reshape(-1)
    if leaf != "kernel":
        return array
    if module[-1].endswith("_conv") and array.ndim == 2:
        side = 4 if module[-1] == "stem_conv" else 2
        array = array.reshape(side, side, -1, array.shape[-1])
    if module[-1] in ("query", "key", "value"):
        array = array.reshape(len(array), -1)
    if module[-1] == "out":
        array = array.reshape(-1, array.shape[-1])
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
