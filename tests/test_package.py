"""What importing the package does: XLA's flags are set before JAX starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OFF = "--xla_gpu_enable_triton_gemm=false"
PRINT_FLAGS = "import os, sys, morphojax; print('jax' in sys.modules, os.environ.get('XLA_FLAGS'))"


def flags_after_import(plugins: Path, flags: str | None) -> str:
    """What a new interpreter prints that imports morphojax, with JAX's plugins in that folder."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{plugins}"
    if flags is not None:
        environment["XLA_FLAGS"] = flags
    command = [sys.executable, "-c", PRINT_FLAGS]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("plugin", ["jax_cuda12_plugin", "jax_cuda13_plugin"])
def test_triton_matrix_products_are_off_where_jax_has_a_cuda_plugin(plugin: str, tmp_path: Path) -> None:
    (tmp_path / plugin).mkdir()
    (tmp_path / plugin / "__init__.py").touch()
    assert flags_after_import(tmp_path, None) == f"False {OFF}", "set without importing jax"
    assert flags_after_import(tmp_path, "--xla_dump_to=/x") == f"False --xla_dump_to=/x {OFF}"
    for own in ("--xla_gpu_enable_triton_gemm=true", "/home/user/flags.txt"):
        assert flags_after_import(tmp_path, own) == f"False {own}", "the user's own flags win"


def test_without_a_cuda_plugin_nothing_is_set(tmp_path: Path) -> None:
    assert flags_after_import(tmp_path, None) == "False None"
    assert flags_after_import(tmp_path, "--xla_dump_to=/x") == "False --xla_dump_to=/x"
