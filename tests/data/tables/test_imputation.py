import json

import numpy as np
import pandas as pd
import pytest

from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.imputation import Imputer
from morphojax.data.tables.schema import Column, Schema, TableError

NAMES = ("a", "b", "c")
SCHEMA = Schema((*(Column(n, "continuous", "demographic") for n in NAMES), Column("k", "binary", "demographic")))


def _frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """Rows with c = 2 a - b exactly."""
    random = np.random.default_rng(seed)
    a, b = random.normal(50, 10, rows), random.normal(3, 1, rows)
    return pd.DataFrame({"a": a, "b": b, "c": 2 * a - b, "k": random.integers(0, 2, rows)})


def _holes(frame: pd.DataFrame, fraction: float = 0.2, seed: int = 1) -> pd.DataFrame:
    """The frame with at most one missing number per row."""
    random = np.random.default_rng(seed)
    holed = frame.copy()
    for row in np.flatnonzero(random.random(len(frame)) < fraction * 3):
        holed.loc[row, NAMES[random.integers(3)]] = np.nan
    return holed


def test_linear_columns_are_recovered():
    frame = _frame()
    holed = _holes(frame)
    encoder = TableEncoder.fit(holed, SCHEMA, "iterative")
    values, missing = encoder.encode(holed)
    truth, _ = encoder.encode(frame)
    assert missing[:, :3].sum() > 80 and (missing == holed[[*NAMES, "k"]].isna().to_numpy()).all()
    np.testing.assert_array_equal(values[~missing], truth[~missing])  # known values do not change
    mean, _ = TableEncoder.fit(holed, SCHEMA).encode(holed)
    for name, tolerance in (("a", 0.02), ("c", 0.02), ("b", 0.3)):  # b explains a twentieth of c
        i = encoder.schema.names.index(name)
        holes = missing[:, i]
        assert np.abs(values - truth)[holes, i].max() < tolerance < np.abs(mean - truth)[holes, i].max()


def test_predictions_are_deterministic_and_independent_of_other_rows():
    train, test = _holes(_frame()), _holes(_frame(50, seed=5), seed=6)
    encoder = TableEncoder.fit(train, SCHEMA, "iterative")
    assert encoder == TableEncoder.fit(train, SCHEMA, "iterative")
    first_rows, _ = encoder.encode(test.iloc[:10])
    all_rows, _ = encoder.encode(test)
    np.testing.assert_allclose(first_rows, all_rows[:10], atol=1e-6)


def test_json_with_and_without_an_imputer():
    holed = _holes(_frame())
    encoder = TableEncoder.fit(holed, SCHEMA, "iterative")
    again = TableEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    np.testing.assert_array_equal(again.encode(holed)[0], encoder.encode(holed)[0])
    plain = TableEncoder.fit(holed, SCHEMA)
    assert "imputer" not in plain.to_json() and TableEncoder.from_json(plain.to_json()).imputer is None


def test_rows_without_any_number_get_the_mean():
    encoder = TableEncoder.fit(_frame(), SCHEMA, "iterative")  # none is missing in training
    values, missing = encoder.encode(pd.DataFrame({"a": [np.nan], "b": [np.nan], "c": [np.nan], "k": [1]}))
    assert missing[0, :3].all() and (values[0, :3] == 0).all()


def test_predictions_stay_within_the_range_of_the_training_rows():
    """Nearly equal columns, and a row far from the training rows."""
    random = np.random.default_rng(0)
    base = random.normal(size=(60, 1))
    values = base + 1e-9 * random.normal(size=(60, 8))
    imputer = Imputer.fit(values)
    far = np.full((1, 8), 1e6)
    far[0, 3:] = np.nan
    filled = imputer.fill(far)
    assert np.isfinite(filled).all() and (filled[0, 3:] <= values.max(axis=0)[3:]).all()


def test_few_rows_a_single_column_and_an_unknown_imputation():
    assert TableEncoder.fit(_frame(), SCHEMA.select("a,k"), "iterative").imputer is None
    few = pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": [1.0, np.nan, 4.0], "c": [np.nan, 1.0, 2.0], "k": [0, 1, 1]})
    assert np.isfinite(TableEncoder.fit(few, SCHEMA, "iterative").encode(few)[0]).all()
    with pytest.raises(TableError, match="imputation 'median' is unknown: choose one of mean, iterative"):
        TableEncoder.fit(few, SCHEMA, "median")
