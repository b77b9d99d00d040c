"""A synthetic cohort small enough for a test of the whole program, made once for a run of the
suite.
"""

import functools
import hashlib
import tempfile
from pathlib import Path

import morphojax
from morphojax.data.geometry import Grid
from morphojax.data.prepare.embedded import ensure_synthetic


@functools.cache
def _digest() -> str:
    package = Path(morphojax.__file__).parent
    code = hashlib.sha256()
    for file in [package / "anatomy.py", *sorted((package / "data").rglob("*.py"))]:
        code.update(file.read_bytes())
    return code.hexdigest()[:12]


def dataset(subjects: int = 16, size: int = 32, planes: tuple[str, ...] = ("sax",)) -> Path:
    """The folder of a prepared dataset, cached between tests and their processes, for the present
    code of the cohort and of its preparation.
    """
    cache = Path(tempfile.gettempdir()) / f"morphojax-tests-cohorts-{_digest()}"
    return ensure_synthetic(cache, subjects=subjects, seed=0, grid=Grid(5.0, size), planes=planes, workers=1)
