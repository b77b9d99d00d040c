"""Every case of the objective tests on as many CPU devices as there are, against one: prints a line of JSON.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.objectives.devices

A program of its own, as the number of devices is fixed when JAX starts.
"""

import importlib
import json
from pathlib import Path

import jax
from jax.sharding import AxisType

from tests.objectives import checks


def all_cases() -> list[checks.Case]:
    """The CASES of every test module beside this one, but of that which runs them."""
    found = []
    for path in sorted(set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__).with_name("test_cases.py")}):
        found += getattr(importlib.import_module(f"tests.objectives.{path.stem}"), "CASES", [])
    return found


def main() -> None:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    differences = {case.name: checks.on_devices(case, mesh) for case in all_cases()}
    print(json.dumps({"devices": jax.device_count(), "differences": differences}))


if __name__ == "__main__":
    main()
