"""Settings and fixtures of the whole suite."""

import functools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from absl import logging

# The suite spends most of its time compiling programs that run once. So the compiler does not
# optimise (without the newer fusion emitters it takes a third to half of the time), and a program
# that several tests or a later run need is compiled once. These variables are set before JAX
# starts; processes that tests start inherit them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"morphojax-tests-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.fixture(scope="session", autouse=True)
def _no_sync():
    """Hundreds of files are written, and that they survive a power failure is not tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _same_draws_in_any_order(request):
    """Seeds the `RNG` of a module, and PyTorch, before every test: draws do not depend on other
    tests.
    """
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _verbosity():
    """Commands that run in this process set how much absl logs."""
    logger = logging.get_absl_logger()
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees the compiled programs of a module after it: a worker needs 2.6 GB instead of 5 GB."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def brightness(tmp_path_factory) -> Path:
    """The folder of the dataset of tests/brightness.py."""
    from tests import brightness

    return brightness.make(tmp_path_factory.mktemp("brightness"))


@pytest.fixture(scope="session")
def segmented(brightness, tmp_path_factory) -> Path:
    """A segmentation run of two steps on `brightness`, with EMA weights that differ from the
    model's.
    """
    from tests.tasks import tiny  # here, because it starts JAX

    run = tmp_path_factory.mktemp("runs") / "segmented"
    settings = {"batch_size": 4, "steps": 2, "eval_every": 0, "optimizer.warmup": 0.0, "optimizer.learning_rate": 0.1}
    tiny.train("segment_sax", brightness, run, **{"ema.decay": 0.9, **settings})
    return run


@pytest.fixture(scope="module")
def few_resamples():
    """For tests of reports: the bootstrap has tests of its own (tests/evaluation)."""
    from morphojax.evaluation import contrasts, statistics

    mean, pairs, contrast = statistics.bootstrap_mean, contrasts.hierarchical_interval, contrasts.contrast
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "bootstrap_mean", lambda values, *_, **__: mean(values, resamples=100))
        patch.setattr(
            contrasts, "hierarchical_interval", lambda values, sets, *_, **__: pairs(values, sets, resamples=300)
        )
        patch.setattr(contrasts, "contrast", functools.partial(contrast, resamples=300))
        yield
