"""The subjects that a config chooses."""

import numpy as np

from morphojax.data.store.dataset import Dataset
from morphojax.tasks import cohort
from tests.tasks import synthetic


def test_a_fraction_is_of_the_subjects_that_are_named() -> None:
    dataset = Dataset.open(synthetic.dataset())
    train = np.flatnonzero(dataset.splits == "train")[:6]
    named = [dataset.subjects[i] for i in train]
    chosen = cohort.select_subjects(dataset, split_names=("train",), subjects=named, fraction=0.5, seed=0)
    assert len(chosen) == 3 and set(chosen) < set(train)
