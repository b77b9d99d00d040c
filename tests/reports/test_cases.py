"""Which subjects a report shows."""

import pandas as pd
import pytest

from morphojax.reports import cases


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([], {}),
        ([0.5], {"only": 0}),
        ([0.5, 0.7], {"best": 1, "worst": 0}),
        ([0.5, 0.7, 0.6], {"best": 1, "median": 2, "worst": 0}),
        ([0.5, 0.7, 0.6, 0.65], {"best": 1, "median": 2, "worst": 0}),
    ],
)
def test_each_subject_is_chosen_once(means, expected):
    assert cases.chosen(pd.Series(means, dtype=float)) == expected
