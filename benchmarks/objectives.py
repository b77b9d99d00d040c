"""The time of each pretraining objective, as a fraction of the time of the encoder that it trains.

    python -m benchmarks.objectives          # batches of 512 and 4096, heads on 2048 features
    python -m benchmarks.objectives --batches=512 --names=info_nce,sigmoid

Times the head and the loss of each objective, forward and backward. Beside it, times the forward
and backward pass of a ResNet-50 (128 x 128 x 3, float32 on a CPU, bfloat16 elsewhere) on --images
images; its time per image, times the batch, is the encoder's time. Both alternate in one process.
The figures are medians of the repeats; the fractions are medians of paired fractions, with their
range.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from morphojax.data.tables.schema import Column, Schema
from morphojax.models.encoders import ENCODERS
from morphojax.models.features import TableFeatures
from morphojax.models.pretrainer import TowerOutputs
from morphojax.tasks.pretrain import objectives

_BATCHES = flags.DEFINE_list("batches", ["512", "4096"], "examples")
_NAMES = flags.DEFINE_list(
    "names",
    ["info_nce", "sigmoid", "nt_xent", "simclr", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "regression"],
    "objectives",
)
_IMAGES = flags.DEFINE_integer("images", 8, "images in the encoder's batch")
_REPEATS = flags.DEFINE_integer("repeats", 5, "of every measurement")
FEATURES, COLUMNS = 2048, 32


def context() -> objectives.Context:
    columns = tuple(Column(f"c{i}", "continuous", "cardiac_morphometric") for i in range(COLUMNS))
    return objectives.Context(
        schema=Schema(columns),
        cardinalities=(1,) * COLUMNS,
        classes=(),
        table_tokens=False,
        patch=0,
        channels=3,
        image_planes=("sax",),
        dtype=jnp.float32,
    )


def seen(batch: int, first: jax.Array, second: jax.Array) -> TowerOutputs:
    """Features as heads receive them: one slice of each subject, in two views, and its row."""
    row = TableFeatures(second[:, None], second)
    return TowerOutputs(
        images=(),
        pyramids=(),
        slice_features=(first, second),
        subject_features=(first, second),
        decoder_maps=(),
        masked_patches=None,
        row_features={"augmented": row},
        slice_mask=jnp.ones((batch, 1), bool),
        negatives=~jnp.eye(batch, dtype=bool),
    )


def objective(name: str, batch: int) -> Callable[[], None]:
    """One forward and backward pass of head and loss."""
    built = objectives.from_config({name: {}}, context())[name]
    random = np.random.default_rng(0)
    first, second = (jnp.asarray(random.normal(size=(batch, FEATURES)), jnp.float32) for _ in range(2))
    no_column = jnp.zeros((batch, COLUMNS), bool)
    info = objectives.BatchInfo(
        subject=jnp.arange(batch),
        valid=jnp.ones(batch, bool),
        slice_mask=jnp.ones((batch, 1), bool),
        position=jnp.zeros((batch, 1)),
        values=first[:, :COLUMNS],
        missing=no_column,
        masked=no_column,
        label=jnp.full(batch, -1),
    )
    variables = jax.jit(lambda: built.head.init(jax.random.key(0), seen(batch, first, second), False))()

    def loss(params: Any, first: jax.Array, second: jax.Array) -> jax.Array:
        out, _ = built.head.apply(
            {**variables, "params": params}, seen(batch, first, second), True, mutable=["batch_stats"]
        )
        if built.momentum is not None:
            out = out | {"target": jax.lax.stop_gradient(out)}
        return built.loss(out, info)[0]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return lambda: jax.block_until_ready(step(variables["params"], first, second))


def encoder(images: int) -> Callable[[], None]:
    """One forward and backward pass of a ResNet-50."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    model, image = ENCODERS["resnet50"](dtype=dtype), jnp.ones((images, 128, 128, 3))
    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(0), image[:1], train=False)

    def loss(params: Any) -> jax.Array:
        features, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return jnp.square(features.pooled).mean()

    step = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(step(variables["params"]))


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(_: list[str]) -> None:
    image = encoder(_IMAGES.value)
    image()
    print(f"{'objective':14}{'batch':>7}{'ms':>10}  fraction of the encoder's time")
    for batch in map(int, _BATCHES.value):
        for name in _NAMES.value:
            run = objective(name, batch)
            run()
            pairs = [(seconds(run), seconds(image) / _IMAGES.value * batch) for _ in range(_REPEATS.value)]
            fractions = [objective_time / encoder_time for objective_time, encoder_time in pairs]
            print(
                f"{name:14}{batch:7}{1e3 * statistics.median(pair[0] for pair in pairs):10.1f}  "
                f"{statistics.median(fractions):.2%} ({min(fractions):.2%} to {max(fractions):.2%})",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
