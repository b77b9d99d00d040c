"""Fixtures that several tests of the sources share."""

import pytest

from morphojax.data.sources.synthetic import Synthetic, generate


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """The source of a synthetic cohort of four subjects. Tests must not change its files."""
    root = tmp_path_factory.mktemp("synthetic") / "cohort"
    return Synthetic(generate(root, subjects=4, seed=3, workers=1, progress=False))
