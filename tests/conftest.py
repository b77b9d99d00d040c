"""Settings of the whole suite."""

import os

# The suite spends most of its time in the compiler, on programs that run once: the cheapest code will do. Set before JAX starts.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
