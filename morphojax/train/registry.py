"""Names in a config -> things, with an error that lists the choices."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.typing
import jax.numpy as jnp
import ml_collections

from morphojax.models.encoders import ENCODERS, supports_masking
from morphojax.models.tabular import TabularMLP, TabularTransformer
from morphojax.models.towers import PlaneEncoders

PLANE_ENCODERS = ("shared", "own")
TABLE_ENCODERS = {"mlp": TabularMLP, "transformer": TabularTransformer}
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def encoder(name: str, **kwargs: Any):
    """An image encoder module. Raises ValueError naming the choices."""
    if name not in ENCODERS:
        raise ValueError(f"config.model.encoder={name!r} is unknown: choose one of {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name](**kwargs)


def image_encoder(model: Mapping[str, Any], columns: Sequence[str]) -> Any:
    """The image encoder of `config.model` as a dict: one for all planes, or, by `plane_encoders`, one for each.

    columns: the plane of each image of a subject. Raises ValueError naming the choices.
    """
    settings = {"width": model["width"], "dtype": dtype(model["dtype"])}
    choice = model.get("plane_encoders", "shared")  # a segmentation has but one
    if choice not in PLANE_ENCODERS:
        raise ValueError(f"config.model.plane_encoders={choice!r} is unknown: choose {' or '.join(PLANE_ENCODERS)}")
    if choice == "shared":
        return encoder(model["encoder"], **settings)
    return PlaneEncoders({p: encoder(model["encoder"], **settings) for p in dict.fromkeys(columns)}, tuple(columns))


def patch(encoder: Any) -> int:
    """Side of the patches of an encoder that can be shown a part of them; 0 for one that cannot."""
    return encoder.patch if supports_masking(encoder) else 0


def table_encoder(name: str, **kwargs: Any):
    """A table encoder module. Raises ValueError naming the choices."""
    if name not in TABLE_ENCODERS:
        raise ValueError(
            f"config.model.table.encoder={name!r} is unknown: choose one of {', '.join(sorted(TABLE_ENCODERS))}"
        )
    return TABLE_ENCODERS[name](**kwargs)


def dtype(name: str) -> flax.typing.Dtype:
    """The dtype of computation (parameters stay float32)."""
    if name not in _DTYPES:
        raise ValueError(f"config.model.dtype={name!r} is unknown: choose one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def steps(config: ml_collections.ConfigDict, examples: int) -> int:
    """Batches in the run, from `config.steps` or `config.epochs`: one of them is given, the other 0."""
    if (config.steps > 0) == (config.epochs > 0) or min(config.steps, config.epochs) < 0:
        raise ValueError(
            f"give one of config.steps={config.steps} and config.epochs={config.epochs}, and 0 for the other"
        )
    accumulate = config.optimizer.accumulate
    found = config.steps or round(config.epochs * max(examples // config.batch_size, 1))
    return max(found // accumulate, 1) * accumulate if config.epochs else found
