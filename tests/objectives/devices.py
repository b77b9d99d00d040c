"""Loss and gradients of every case of the objective tests, with the batch sharded over all CPU
devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.objectives.devices FILE EVERY

A program of its own, because the number of devices is fixed when JAX starts. The file holds
`devices`, and for every EVERY-th case `<name>/loss` and `<name>/gradient/<array>`.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

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


def main(path: str, every: str) -> None:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    results = {"devices": np.asarray(jax.device_count())}
    for case in all_cases()[:: int(every)]:
        results |= on_mesh(case, mesh)
    np.savez(path, **results)  # pyrefly: ignore


if __name__ == "__main__":
    main(*sys.argv[1:])
