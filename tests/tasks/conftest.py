"""Datasets that several tests of the tasks share, made once per process."""

from pathlib import Path

import pytest

from morphojax.data.geometry import Grid
from morphojax.data.sources.acdc import Acdc
from tests.data import cohorts
from tests.data.preparing import prepare


@pytest.fixture(scope="session")
def acdc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four training subjects and two validation subjects in ACDC's layout."""
    root = tmp_path_factory.mktemp("cohort")
    cohorts.acdc(root, subjects=6)
    (root / "splits.csv").write_text(
        "subject,split\n" + "".join(f"patient{n:03d},{'train' if n < 5 else 'val'}\n" for n in range(1, 7))
    )
    options = dict(name="acdc", grid=Grid(1.5, 32), split_file=root / "splits.csv")
    prepare(Acdc(root), root / "out", workers=1, progress=False, **options)
    return root / "out"
