"""The dataset of tests/data/input/origins.py. A module with another dataset defines its own
fixture.
"""

import pytest

from tests.data.input.origins import make_dataset


@pytest.fixture(scope="session")
def without_cine(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("origins"))


@pytest.fixture(scope="session")
def dataset(without_cine):
    return without_cine
