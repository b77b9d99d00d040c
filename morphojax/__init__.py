"""morphojax: pretraining on cardiac MRI and biobank tables, then segmentation from images alone.

`morphojax.load(run)` gives a finished run to Python programs (morphojax/library.py).
"""

import importlib
import importlib.util
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphojax.library import Model, ModelError, load

__all__ = ["Model", "ModelError", "load"]

__version__ = "0.1.0"

# With XLA's Triton kernels for matrix products, compiling the default segmentation aborts on an
# NVIDIA H200 (jax 0.11.2: "triton_tiling_propagation.cc: Check failed"). Without them cuBLAS
# computes the products.
_TRITON_GEMM = "--xla_gpu_enable_triton_gemm"
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def set_xla_flags(environment: MutableMapping[str, str]) -> None:
    """Switches XLA's Triton kernels for matrix products off, where JAX has a CUDA plugin.

    XLA reads XLA_FLAGS when JAX starts a backend: call this before that. A user's own XLA_FLAGS win
    where they mention the flag, or name a file of flags. Without a CUDA plugin nothing is set: XLA
    aborts on a flag that it does not know.
    """
    flags = environment.get("XLA_FLAGS", "").strip()
    if _TRITON_GEMM in flags or (flags and not flags.startswith("-")):
        return
    if any(importlib.util.find_spec(plugin) for plugin in _CUDA_PLUGINS):
        environment["XLA_FLAGS"] = f"{flags} {_TRITON_GEMM}=false".strip()


set_xla_flags(os.environ)


def __getattr__(name: str) -> Any:
    """Imports the library, and JAX with it, when one of its names is first used."""
    if name in __all__:
        return getattr(importlib.import_module("morphojax.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
