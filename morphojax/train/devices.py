"""One global program over a mesh of all devices; jit inserts the collectives."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from morphojax import progress


def make_mesh() -> Mesh:
    """A one-dimensional mesh over every device of every process.

    Axes are Auto: JAX's default Explicit axes require shardings in plain array code (a product with
    a transpose, dropout).
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, key: str = "config.batch_size") -> None:
    """Raises ValueError, naming the key, where a global batch does not divide among the devices."""
    if batch_size < 1 or batch_size % jax.device_count():
        raise ValueError(
            f"{key}={batch_size} does not divide among {jax.device_count()} devices: choose a multiple of {jax.device_count()}"
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """The rows of this process -> global arrays, split over the mesh along their first axis."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), dict(batch))


def say(text: str) -> None:
    """Prints a line from the first process only, without breaking a progress bar."""
    if jax.process_index() == 0:
        progress.say(text)


def wait_for_all(name: str) -> None:
    """Returns once every process has come here. name: the same in all of them."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
