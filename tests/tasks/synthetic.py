"""A synthetic cohort small enough for a test of the whole program, made once for a run of the
suite.
"""

import tempfile
from pathlib import Path

from morphojax.data.geometry import Grid
from morphojax.data.prepare.embedded import ensure_synthetic


def dataset(subjects: int = 16, size: int = 32, planes: tuple[str, ...] = ("sax",)) -> Path:
    """The folder of a prepared dataset, cached between tests and their processes."""
    cache = Path(tempfile.gettempdir()) / "morphojax-tests-cohorts"
    return ensure_synthetic(cache, subjects=subjects, seed=0, grid=Grid(5.0, size), planes=planes, workers=1)
