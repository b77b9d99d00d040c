import jax
import numpy as np
import pytest
import scipy.stats

from morphojax.augment import corrupt, mask_columns

KEY = jax.random.key(0)


def table(batch=300, fields=10, rows=7):
    """Values that show their origin: original entries are -1, marginal entries row + 100 *
    column.
    """
    values = -np.ones((batch, fields), np.float32)
    marginal = (np.arange(rows)[:, None] + 100 * np.arange(fields)).astype(np.float32)
    return values, np.zeros((batch, fields), bool), marginal, marginal % 2 == 1


def test_corruption_replaces_the_exact_number_of_columns():
    for rate, count in ((0.39, 3), (1.0, 10), (0.0, 0), (0.05, 0)):
        values, missing = corrupt(KEY, *table(), rate)
        np.testing.assert_array_equal((np.asarray(values) >= 0).sum(1), count)
        assert np.all(np.asarray(missing)[np.asarray(values) < 0] == 0)


def test_corruption_samples_the_marginal_of_each_column_with_its_missing_flag():
    values, missing = (np.asarray(x) for x in corrupt(KEY, *table(batch=2000), 0.3))
    b, f = np.nonzero(values >= 0)
    np.testing.assert_array_equal(values[b, f] // 100, f)
    np.testing.assert_array_equal(missing[b, f], values[b, f] % 2 == 1)
    row = (values[b, f] % 100).astype(int)
    assert scipy.stats.chisquare(np.bincount(row, minlength=7)).pvalue > 1e-3
    # All columns are equally likely. Columns of one example come from different rows: the same row
    # with chance 1 in 7.
    assert np.bincount(f, minlength=10).std() / 600 < 0.08
    first, second = (np.array([r[r >= 0][i] % 100 for r in values]) for i in (0, 1))
    assert abs(np.mean(first == second) - 1 / 7) < 0.03


def test_corruption_is_deterministic_and_checks_its_input():
    args = table()
    np.testing.assert_array_equal(corrupt(KEY, *args, 0.3)[0], corrupt(KEY, *args, 0.3)[0])
    assert np.any(np.asarray(corrupt(KEY, *args, 0.3)[0]) != np.asarray(corrupt(jax.random.key(1), *args, 0.3)[0]))
    with pytest.raises(ValueError, match="rate"):
        corrupt(KEY, *args, 1.2)
    with pytest.raises(ValueError, match="marginal"):
        corrupt(KEY, *args[:2], args[2][:, :4], args[3], 0.3)
    with pytest.raises(ValueError, match="at least one training row"):
        corrupt(KEY, *args[:2], args[2][:0], args[3][:0], 0.3)


@pytest.mark.parametrize(
    ("fields", "rate", "count"),
    [(10, 0.3, 3), (10, 0.26, 3), (10, 0.01, 1), (10, 0.99, 9), (4, 0.9, 3), (2, 0.9, 1), (1, 0.3, 1), (5, 0.5, 2)],
)
def test_the_number_of_masked_columns_is_exact(fields, rate, count):
    masked = mask_columns(KEY, (50, fields), rate)
    assert masked.shape == (50, fields) and masked.dtype == bool
    np.testing.assert_array_equal(masked.sum(1), count)


def test_columns_are_masked_uniformly_and_differently_for_each_key():
    masked = np.asarray(mask_columns(KEY, (2000, 10), 0.3))
    assert scipy.stats.chisquare(masked.sum(0)).pvalue > 1e-3
    both_masked = masked.T.astype(int) @ masked / 2000  # probability for two columns: 3/10 * 2/9
    np.testing.assert_allclose(both_masked[~np.eye(10, dtype=bool)], 1 / 15, atol=0.025)
    np.testing.assert_array_equal(mask_columns(KEY, (2000, 10), 0.3), masked)
    assert np.any(np.asarray(mask_columns(jax.random.key(1), (2000, 10), 0.3)) != masked)


def test_mask_columns_checks_its_input():
    for rate in (0, 1, -0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rate"):
            mask_columns(KEY, (4, 3), rate)
    with pytest.raises(ValueError, match="at least one column"):
        mask_columns(KEY, (4, 0), 0.5)
