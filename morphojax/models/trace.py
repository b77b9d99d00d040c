"""The output shapes of all modules of a model."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax


def output_shapes(run: Callable[[], Any]) -> dict[tuple[str, ...], str]:
    """Path of every module that run() calls -> its output shapes as text: `2x32x32x64`, several
    joined by commas.

    A module called more than once has the shapes of its last call. Under jax.eval_shape nothing is
    computed.
    """
    shapes: dict[tuple[str, ...], str] = {}

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            shapes[context.module.path] = ", ".join("x".join(map(str, x.shape)) for x in jax.tree.leaves(out))
        return out

    with nn.intercept_methods(record):
        run()
    return shapes
