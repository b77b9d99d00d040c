import itertools

import numpy as np
import pytest

from morphojax.data.store.splits import SPLITS, assign, nested

IDS = [f"s{i}" for i in range(2000)]
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def test_fractions_are_met_and_new_subjects_change_no_assignment():
    splits = assign(IDS, FRACTIONS, seed=0)
    for name in SPLITS:
        assert abs(np.mean(splits == name) - FRACTIONS[name]) < 0.04
    shuffled = np.random.default_rng(0).permutation(len(IDS))[:500]
    np.testing.assert_array_equal(assign([IDS[i] for i in shuffled], FRACTIONS, 0), splits[shuffled])
    assert (assign(IDS, FRACTIONS, seed=1) != splits).mean() > 0.2


def test_a_fraction_of_zero_gets_no_subject():
    assert set(assign(IDS, {"train": 0.5, "test": 0.5}, 0)) == {"train", "test"}
    assert set(assign(IDS, {"train": 1.0}, 0)) == {"train"}


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.2, "val": -0.2}, {"training": 1.0}])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="split"):
        assign(IDS, fractions, 0)


def test_nested_subsets_contain_one_another():
    sets = [set(nested(IDS, f, seed=3)) for f in (0.001, 0.01, 0.1, 0.5, 1.0)]
    assert [len(s) for s in sets] == [2, 20, 200, 1000, 2000]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert set(nested(IDS, 0.1, seed=4)) != sets[2]
    order = np.random.default_rng(0).permutation(len(IDS)).tolist()
    assert {order[i] for i in nested([IDS[i] for i in order], 0.1, seed=3)} == sets[2]
    assert len(nested(IDS[:3], 0.01, 0)) == 1
    with pytest.raises(ValueError, match="fraction"):
        nested(IDS, 0.0, 0)
