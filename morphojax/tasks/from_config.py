"""Names in a config -> things, with an error that lists the choices."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.typing
import jax.numpy as jnp

from morphojax.models.encoders import DECODERS, ENCODERS, fields_of, supports_masking
from morphojax.models.layers import NORMS
from morphojax.models.tabular import TabularMLP, TabularTransformer
from morphojax.models.towers import PlaneEncoders

PLANE_ENCODERS = ("shared", "own")
TABLE_ENCODERS = {"mlp": TabularMLP, "transformer": TabularTransformer}
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# What is left as it is unless a config says otherwise; so are runs made before there was the choice.
_CHOICES = {"norm": "batch", "drop_path": 0.0, "remat": False}


def encoder(model: Mapping[str, Any]) -> Any:
    """The image encoder module of `config.model`.

    Raises ValueError naming the choices for an unknown name, and for a norm, drop_path or remat that this encoder does not have.
    """
    name = _known("encoder", model["encoder"], ENCODERS)
    chosen = {key: model.get(key, default) for key, default in _CHOICES.items()}
    having = fields_of(name)
    for key, value in chosen.items():
        if key not in having and value != _CHOICES[key]:
            raise ValueError(
                f"config.model.{key}={value!r}: {name} has no such choice, leave it at {_CHOICES[key]!r}; these have it: "
                f"{', '.join(other for other in sorted(ENCODERS) if key in fields_of(other))}"
            )
    if chosen["norm"] not in NORMS:
        raise ValueError(f"config.model.norm={chosen['norm']!r} is unknown: choose one of {', '.join(NORMS)}")
    if not 0 <= chosen["drop_path"] < 1:
        raise ValueError(f"config.model.drop_path={chosen['drop_path']}: give a probability, from 0 to below 1")
    fields = {key: chosen[key] for key in having}
    return ENCODERS[name](width=model["width"], dtype=dtype(model["dtype"]), **fields)


def decoder(model: Mapping[str, Any]) -> Any:
    """The decoder module of `config.model`. Raises ValueError naming the choices for an unknown name."""
    name = _known("decoder", model.get("decoder", "unet"), DECODERS)
    norm, widths = model.get("norm", _CHOICES["norm"]), tuple(model["decoder_widths"])
    if not widths or min(widths) < 1:
        raise ValueError(f"config.model.decoder_widths={widths}: give numbers of channels, finest first")
    return DECODERS[name](widths=widths, dtype=dtype(model["dtype"]), norm=norm)


def _known(key: str, name: str, names: Collection[str]) -> str:
    if name not in names:
        raise ValueError(f"config.model.{key}={name!r} is unknown: choose one of {', '.join(sorted(names))}")
    return name


def image_encoder(model: Mapping[str, Any], image_planes: Sequence[str]) -> Any:
    """The image encoder of `config.model` as a dict: one for all planes, or, by `plane_encoders`, one for each.

    image_planes: the plane of each image of a subject. Raises ValueError naming the choices.
    """
    choice = model.get("plane_encoders", "shared")  # a segmentation has but one
    if choice not in PLANE_ENCODERS:
        raise ValueError(f"config.model.plane_encoders={choice!r} is unknown: choose {' or '.join(PLANE_ENCODERS)}")
    if choice == "shared":
        return encoder(model)
    return PlaneEncoders({p: encoder(model) for p in dict.fromkeys(image_planes)}, tuple(image_planes))


def patch(encoder: Any) -> int:
    """Side of the patches of an encoder that can be shown a part of them; 0 for one that cannot."""
    return encoder.patch if supports_masking(encoder) else 0


def table_encoder(model: Mapping[str, Any], cardinalities: tuple[int, ...]) -> Any:
    """The table encoder of `config.model.table`, with the settings under its name. Raises ValueError naming the choices."""
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
