"""The subjects that a config chooses."""

from pathlib import Path

import numpy as np
import pytest

from morphojax.data.store.dataset import Dataset
from morphojax.tasks import cohort
from tests.tasks import synthetic


def test_a_fraction_is_of_the_subjects_that_are_named() -> None:
    dataset = Dataset.open(synthetic.dataset())
    train = np.flatnonzero(dataset.splits == "train")[:6]
    named = [dataset.subjects[i] for i in train]
    chosen = cohort.select_subjects(dataset, split_names=("train",), subjects=named, fraction=0.5, seed=0)
    assert len(chosen) == 3 and set(chosen) < set(train)
    others = [
        cohort.select_subjects(dataset, split_names=("train",), subjects=named, fraction=0.5, seed=seed).tolist()
        for seed in range(1, 6)
    ]
    assert any(other != chosen.tolist() for other in others), "every seed draws its own subjects"


@pytest.mark.parametrize("form", ["{a}\n{b}\n", "\ufeff{a}\r\n{b}", "subject\n{a},\n{b},\n", '"{a}"\n"{b}"\n\n'])
def test_a_list_is_read_as_people_save_it(tmp_path: Path, form: str) -> None:
    dataset = Dataset.open(synthetic.dataset())
    train = np.flatnonzero(dataset.splits == "train")[:2]
    (tmp_path / "l.txt").write_text(form.format(a=dataset.subjects[train[0]], b=dataset.subjects[train[1]]), "utf-8")
    chosen = cohort.select_subjects(
        dataset, split_names=("train",), subjects=(str(tmp_path / "l.txt"),), fraction=1.0, seed=0
    )
    assert chosen.tolist() == train.tolist()


@pytest.mark.parametrize(("data", "message"), [(b"\n \n", "holds no id"), (b"\xff\xfea\x00", "cannot be read")])
def test_a_list_without_ids_does_not_mean_everybody(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "l.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"config.data.subjects: .*l\.txt {message}"):
        cohort.select_subjects(
            Dataset.open(synthetic.dataset()),
            split_names=("train",),
            subjects=(str(tmp_path / "l.txt"),),
            fraction=1.0,
            seed=0,
        )
