"""morphojax: pretraining on cardiac MRI and biobank tables, then segmentation from images alone."""

import importlib.util
import os
from collections.abc import MutableMapping

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
