"""Probes of embeddings, and their scores on the test subjects."""

from pathlib import Path

import numpy as np
import pytest

from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import prediction
from morphojax.inference import embed, probing
from tests.brightness import FRACTION, SPLITS, N

TRAIN = np.flatnonzero(SPLITS == "train")


@pytest.fixture(scope="module")
def dataset(brightness: Path) -> Dataset:
    return Dataset.open(brightness)


def informative(n_dimensions=3):
    """Embeddings of all but the first subject. Their first dimension is the fraction of bright
    pixels.
    """
    noise = np.random.default_rng(0).normal(size=(N, n_dimensions - 1))
    values = np.concatenate([FRACTION[:, None], noise], axis=1)[1:]
    return embed.Embeddings(np.arange(1, N), values.astype(np.float32))


def test_a_probe_is_fitted_to_training_subjects_and_scores_test_subjects(dataset):
    result = probing.probe(dataset, "bright", informative())
    test = np.flatnonzero(SPLITS == "test")
    np.testing.assert_array_equal(result.subject, test)
    np.testing.assert_allclose(result.target, 100 * FRACTION[test], rtol=1e-6)
    assert dict(result.subjects) == {"train": 11, "val": 6, "test": 6, "left_out": 1}
    np.testing.assert_allclose(result.predicted["linear"], result.target, atol=3)
    by_probe = probing.scores(result)
    assert by_probe["linear"]["r"].mean > 0.95 and by_probe["linear"]["mae"].mean < by_probe["constant"]["mae"].mean
    train_mean = 100 * FRACTION[TRAIN][1:].mean()  # the first has no embedding
    assert by_probe["constant"]["mae"].mean == pytest.approx(np.abs(result.target - train_mean).mean(), rel=1e-5)


def test_test_values_never_reach_a_probe(dataset):
    """Spoilt test labels change the targets, and not one prediction."""
    spoilt = dataset.table.copy()
    spoilt.loc[SPLITS == "test", "bright"] = 1e3
    other = Dataset(dataset.root, dataset.manifest, dataset.subjects, dataset.splits, spoilt, dataset._stacks)
    a, b = (probing.probe(d, "bright", informative()) for d in (dataset, other))
    for kind in prediction.SETTINGS:
        np.testing.assert_array_equal(a.predicted[kind], b.predicted[kind])
    assert (b.target > 900).all()


def test_missing_labels_are_left_out_and_counted(dataset):
    result = probing.probe(dataset, "gappy", informative())
    with_label = (np.arange(N) % 5 != 0) & (np.arange(N) > 0)
    expected = {split: int((with_label & (split == SPLITS)).sum()) for split in ("train", "val", "test")}
    assert dict(result.subjects) == {**expected, "left_out": N - sum(expected.values())}
    assert set(result.target) <= {0, 1} and result.predicted["knn"].shape == (expected["test"], 2)


def test_few_labels_are_a_fraction_of_the_training_subjects(dataset):
    half = probing.probe(dataset, "bright", informative(), fraction=0.5)
    assert 4 <= half.subjects["train"] <= 6 and half.subjects["test"] == 6
    with pytest.raises(ValueError, match="'bright'"):
        probing.probe(dataset, "bright", informative(), fraction=0.01)


def test_a_test_split_without_labels_is_refused(dataset):
    kept = informative()
    rest = SPLITS[kept.subject] != "test"
    with pytest.raises(probing.ProbeError, match="no test subject has 'bright'"):
        probing.probe(dataset, "bright", embed.Embeddings(kept.subject[rest], kept.values[rest]))
