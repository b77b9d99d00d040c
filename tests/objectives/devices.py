"""Loss and gradients of every case of the objective tests, with the batch sharded over all CPU
devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.objectives.devices FILE EVERY

A program of its own, because the number of devices is fixed when JAX starts. The file holds
`devices`, for every EVERY-th case `<name>/loss` and `<name>/gradient/<array>`, and for some losses
`pairs/<name>`: how many kinds of whole matrices of pairs a device holds, and of its rows of them.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from benchmarks.collectives import shapes
from morphojax.objectives import contrastive
from tests.objectives import checks


def all_cases() -> list[checks.Case]:
    """The CASES of every test module in this folder except test_cases, which runs them."""
    cases = []
    for path in sorted(set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__).with_name("test_cases.py")}):
        cases += getattr(importlib.import_module(f"tests.objectives.{path.stem}"), "CASES", [])
    return cases


def on_mesh(case: checks.Case, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """Loss and gradients with the examples split over the mesh; the batch must divide among the
    devices.
    """

    def put(arrays: checks.Arrays, *spec: Any) -> dict[str, jax.Array]:
        return {k: jax.device_put(v, jax.NamedSharding(mesh, jax.P(*spec))) for k, v in arrays.items()}

    loss, gradients = case.program({**put(case.learned, "data"), **put(case.shared)}, put(case.fixed, "data"))
    return {f"{case.name}/loss": np.asarray(loss)} | {
        f"{case.name}/gradient/{name}": np.asarray(gradient) for name, gradient in gradients.items()
    }


def pair_matrices(name: str, mesh: jax.sharding.Mesh) -> np.ndarray:
    """In the compiled loss and gradient of 96 pairs: [whole matrices, rows of one device]."""
    batch, features, anchors = 96, 7, 192 if name == "nt_xent" else 96
    extra = (0.0,) if name == "sigmoid" else ()

    def loss(image: jax.Array, table: jax.Array) -> jax.Array:
        return getattr(contrastive, name)(image, table, jnp.float32(0.0), *extra)[0]

    sharding = jax.NamedSharding(mesh, jax.P("data"))
    embeddings = [jax.ShapeDtypeStruct((batch, features), jnp.float32, sharding=sharding)] * 2
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*embeddings).compile()
    found = shapes(compiled.as_text() or "")
    return np.array([(anchors, anchors) in found, (anchors // mesh.size, anchors) in found])


def main(path: str, every: str) -> None:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    results = {"devices": np.asarray(jax.device_count())}
    for case in all_cases()[:: int(every)]:
        results |= on_mesh(case, mesh)
    results |= {f"pairs/{name}": pair_matrices(name, mesh) for name in ("info_nce", "sigmoid", "nt_xent")}
    np.savez(path, **results)  # pyrefly: ignore


if __name__ == "__main__":
    main(*sys.argv[1:])
