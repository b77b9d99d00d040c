"""Modules and types built from the names in a config; an unknown name raises an error that lists
the choices.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.typing
import jax.numpy as jnp

from morphojax.models.encoders import DECODERS, ENCODERS, encoder_options, has_norm, supports_masking
from morphojax.models.layers import NORMS
from morphojax.models.tabular import TabularMLP, TabularTransformer
from morphojax.models.towers import PlaneEncoders

PLANE_ENCODERS = ("shared", "own")
TABLE_ENCODERS = {"mlp": TabularMLP, "transformer": TabularTransformer}
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Options of encoders in every shipped config. An encoder without such an option accepts the value
# here, its neutral value.
NEUTRAL_OPTIONS = {"drop_path": 0.0, "remat": False}


def encoder(model: Mapping[str, Any]) -> Any:
    """The image encoder module of `config.model`.

    Raises ValueError that names the choices for an unknown encoder, norm, dtype or option of
    `encoder_options`.
    """
    name = _known("encoder", model["encoder"], ENCODERS)
    norm = _known("norm", model.get("norm", "batch"), NORMS)
    if has_norm(name):
        norm_argument = {"norm": norm}
    elif norm == "batch":
        norm_argument = {}
    else:
        others = ", ".join(other for other in sorted(ENCODERS) if has_norm(other))
        raise ValueError(f"config.model.norm={norm!r}: {name} has no norm to choose, these have: {others}")
    options = _encoder_options(name, model.get("encoder_options", {}))
    return ENCODERS[name](width=model["width"], dtype=dtype(model["dtype"]), **norm_argument, **options)


def _encoder_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as keyword arguments of the encoder, without neutral values of options that it
    does not have.
    """
    allowed = encoder_options(name)
    for key, value in options.items():
        if key not in allowed and (key not in NEUTRAL_OPTIONS or value != NEUTRAL_OPTIONS[key]):
            raise ValueError(
                f"config.model.encoder_options.{key}={value!r}: {name} has no such option; "
                f"it takes {', '.join(allowed) or 'none'}"
            )
    if not 0 <= options.get("drop_path", 0.0) < 1:
        raise ValueError(
            f"config.model.encoder_options.drop_path={options['drop_path']}: give a probability, from 0 to below 1"
        )
    return {key: value for key, value in options.items() if key in allowed}


def decoder(model: Mapping[str, Any]) -> Any:
    """The decoder module of `config.model`. Raises ValueError naming the choices for an unknown
    name.
    """
    name = _known("decoder", model.get("decoder", "unet"), DECODERS)
    norm, widths = model.get("norm", "batch"), tuple(model["decoder_widths"])
    if not widths or min(widths) < 1:
        raise ValueError(f"config.model.decoder_widths={widths}: give numbers of channels, finest first")
    return DECODERS[name](widths=widths, dtype=dtype(model["dtype"]), norm=norm)


def _known(key: str, name: str, names: Collection[str]) -> str:
    if name not in names:
        raise ValueError(f"config.model.{key}={name!r} is unknown: choose one of {', '.join(sorted(names))}")
    return name


def image_encoder(model: Mapping[str, Any], image_planes: Sequence[str]) -> Any:
    """The image encoder of `config.model`: one for all planes, or one for each
    (`plane_encoders="own"`).

    image_planes: the plane of each image of a subject. Raises ValueError that names the choices.
    """
    choice = model.get("plane_encoders", "shared")  # segmentation configs have no such key
    if choice not in PLANE_ENCODERS:
        raise ValueError(f"config.model.plane_encoders={choice!r} is unknown: choose {' or '.join(PLANE_ENCODERS)}")
    if choice == "shared":
        return encoder(model)
    return PlaneEncoders({p: encoder(model) for p in dict.fromkeys(image_planes)}, tuple(image_planes))


def patch(encoder: Any) -> int:
    """Side of the encoder's patches, in pixels; 0 if it cannot encode visible patches alone."""
    return encoder.patch if supports_masking(encoder) else 0


def table_encoder(model: Mapping[str, Any], cardinalities: tuple[int, ...]) -> Any:
    """The table encoder of `config.model.table`, with the settings under its name. Raises
    ValueError naming the choices.
    """
    settings = model["table"]
    name = settings["encoder"]
    if name not in TABLE_ENCODERS:
        raise ValueError(
            f"config.model.table.encoder={name!r} is unknown: choose one of {', '.join(sorted(TABLE_ENCODERS))}"
        )
    return TABLE_ENCODERS[name](cardinalities=cardinalities, dtype=dtype(model["dtype"]), **settings.get(name, {}))


def dtype(name: str) -> flax.typing.Dtype:
    """The dtype of computation (parameters stay float32)."""
    if name not in _DTYPES:
        raise ValueError(f"config.model.dtype={name!r} is unknown: choose one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
