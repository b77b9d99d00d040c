import json

import numpy as np
import pandas as pd
import pytest

from morphojax.data.tables.cells import check
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import Column, Schema, TableError
from tests.data.tables.test_cells import rows
from tests.data.tables.test_schema import SCHEMA


def encoder(kind, training, **column):
    schema = Schema((Column("x", kind, "demographic", **column),))
    return TableEncoder.fit(rows(x=training), schema)


def test_continuous_by_hand():
    # mean 4, population SD sqrt(((-3)^2 + (-1)^2 + 4^2) / 3) = sqrt(26 / 3)
    fitted = encoder("continuous", [1.0, 3.0, np.nan, 8.0])
    values, missing = fitted.encode(rows(x=[4.0, 4.0 + np.sqrt(26 / 3), np.nan]))
    assert values.dtype == np.float32
    assert missing.dtype == bool
    np.testing.assert_allclose(values[:, 0], [0, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(missing[:, 0], [False, False, True])
    assert fitted.cardinalities == (1,)


def test_against_sklearn():
    impute = pytest.importorskip("sklearn.impute", reason="the oracle scikit-learn is not installed")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    random = np.random.default_rng(0)
    numbers = random.normal(50, 12, (60, 2))
    numbers[random.random((60, 2)) < 0.2] = np.nan
    words = random.choice(["a", "b", "c"], 60, p=[0.2, 0.5, 0.3]).astype(object)
    words[random.random(60) < 0.2] = None
    frame = pd.DataFrame({"u": numbers[:, 0], "v": numbers[:, 1], "w": words})
    schema = Schema(
        (
            Column("u", "continuous", "demographic"),
            Column("v", "continuous", "haemodynamic"),
            Column("w", "categorical", "lifestyle"),
        )
    )
    train, test = frame[:40], frame[40:]
    values, missing = TableEncoder.fit(train, schema).encode(test)

    scaler = preprocessing.StandardScaler().fit(train[["u", "v"]].to_numpy())
    mean = impute.SimpleImputer(strategy="mean").fit(train[["u", "v"]].to_numpy())
    expected = scaler.transform(mean.transform(test[["u", "v"]].to_numpy()))
    np.testing.assert_allclose(values[:, :2], expected, atol=1e-6)
    texts = frame[["w"]].astype(object).where(frame[["w"]].notna(), None).to_numpy()
    mode = impute.SimpleImputer(strategy="most_frequent", missing_values=None).fit(texts[:40])
    expected = preprocessing.OrdinalEncoder().fit([["a"], ["b"], ["c"]]).transform(mode.transform(texts[40:]))
    np.testing.assert_array_equal(values[:, 2:], expected)
    np.testing.assert_array_equal(missing, test.isna().to_numpy())
    assert missing.any(axis=0).all()


def test_statistics_come_from_the_training_rows_only():
    fitted = encoder("continuous", [1.0, 3.0])
    single, _ = fitted.encode(rows(x=[5.0]))
    several, _ = fitted.encode(rows(x=[5.0, 1e6]))
    assert single[0, 0] == several[0, 0] == 3  # (5 - 2) / 1


@pytest.mark.parametrize(
    "cells", [[0, 1, 1], [0.0, 1.0, 1.0], [False, True, True], ["0", "1", " 1.0 "], [0, "1", True]]
)
def test_binary_of_any_type(cells):
    fitted = encoder("binary", cells)
    values, missing = fitted.encode(rows(x=[1, 0, None, True, "1"]))
    np.testing.assert_array_equal(values[:, 0], [1, 0, 1, 1, 1])  # the most frequent class is 1
    np.testing.assert_array_equal(missing[:, 0], [False, False, True, False, False])
    assert fitted.cardinalities == (2,)


def test_declared_categories_give_the_codes():
    fitted = encoder("categorical", ["now", "past", "past", "", None], categories=("never", "past", "now"))
    values, missing = fitted.encode(rows(x=["never", "past", "now", "  ", None]))
    np.testing.assert_array_equal(values[:, 0], [0, 1, 2, 1, 1])
    np.testing.assert_array_equal(missing[:, 0], [False, False, False, True, True])
    assert fitted.cardinalities == (3,)


def test_numeric_categories_survive_a_missing_value():
    # One NaN turns a column of integer codes into floats.
    fitted = encoder("categorical", [2.0, 5.0, np.nan, 5.0], categories=("1", "2", "5"))
    np.testing.assert_array_equal(fitted.encode(rows(x=[1, 2, 5]))[0][:, 0], [0, 1, 2])


def test_pandas_missing_values():
    for column in (pd.array([1, None, 4], "Int64"), pd.array(["1", None, "4"], "string"), ["1", pd.NA, " 4 "]):
        values, missing = encoder("continuous", column).encode(rows(x=column))
        np.testing.assert_allclose(values[:, 0], [-1, 0, 1], atol=1e-6)
        np.testing.assert_array_equal(missing[:, 0], [False, True, False])


def test_constant_and_empty_columns_are_dropped(caplog):
    names = ("all_missing", "constant", "tenth", "one_class", "kept")
    kinds = ("continuous", "continuous", "continuous", "categorical", "continuous")
    schema = Schema(tuple(Column(n, k, "demographic") for n, k in zip(names, kinds, strict=True)))
    columns = {
        "all_missing": [np.nan] * 3,
        "constant": [7, 7, np.nan],
        "tenth": [0.1] * 3,  # its computed SD is not zero, because of rounding
        "one_class": ["a", None, "a"],
        "kept": [1.0, 2.0, 3.0],
    }
    with caplog.at_level("WARNING"):
        fitted = TableEncoder.fit(rows(**columns), schema)
    assert fitted.dropped == names[:4]
    assert fitted.schema.names == ("kept",)
    assert all(name in caplog.text for name in names[:4])
    values, _ = fitted.encode(rows(**columns))
    assert values.shape == (3, 1)
    assert np.isfinite(values).all()
    with pytest.raises(TableError, match="every column"):
        TableEncoder.fit(rows(**columns), schema.select("constant,all_missing"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [2e30, -1e300, "1e308", float("-inf")])
def test_numbers_too_large_for_a_measurement_are_refused(number):
    with pytest.raises(TableError, match=r"column 'x', row 2 .*is infinite or too large; correct it"):
        encoder("continuous", [1.0, 2.0, number])
    assert encoder("continuous", [1.0, 2.0, 1e30]).fitted[0].std > 1e29


def test_unseen_category_is_missing_and_counted(caplog):
    fitted = encoder("categorical", ["a", "b", "b"])
    with caplog.at_level("WARNING"):
        values, missing = fitted.encode(rows(x=["z", "a", "y", "z", None]))
    np.testing.assert_array_equal(values[:, 0], [1, 0, 1, 1, 1])
    np.testing.assert_array_equal(missing[:, 0], [True, False, True, True, True])
    assert "3 values of 2 classes" in caplog.text
    assert "secret" not in caplog.text


def test_a_category_outside_the_dictionary_is_refused_in_training():
    with pytest.raises(TableError, match=r"'x'.*'later'.*never"):
        encoder("categorical", ["never", "now", "later"], categories=("never", "now"))
    with pytest.raises(TableError, match=r"'x'.*'2'"):
        encoder("binary", [1, 2, 1])


@pytest.mark.parametrize(
    ("cell", "message"), [("12,5", "'12,5' is not a number"), (np.inf, "infinite"), ("-inf", "inf")]
)
def test_bad_numbers_are_refused(cell, message):
    good, bad = rows(x=[1.0, 2.0]), rows(x=[1.0, 2.0, cell])
    schema = Schema((Column("x", "continuous", "demographic"),))
    fitted = TableEncoder.fit(good, schema)
    for call in (lambda: TableEncoder.fit(bad, schema), lambda: fitted.encode(bad), lambda: check(bad, schema)):
        with pytest.raises(TableError, match=message) as error:
            call()
        assert "'x', row 2" in str(error.value)
        assert "secret" not in str(error.value)


def test_a_value_beyond_float32_is_refused():
    with pytest.raises(TableError, match=r"'x'.*too far"):
        encoder("continuous", [1e-10, 2e-10]).encode(rows(x=[1e30]))


def test_all_missing_rows_and_json():
    frame = rows(age=[40.0, 60.0, np.nan], sex=["male", "female", None], smoking=["now", "past", None])
    fitted = TableEncoder.fit(frame, SCHEMA.select("age,sex,smoking"))
    again = TableEncoder.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    values, missing = again.encode(frame)
    np.testing.assert_array_equal(missing, [[False] * 3, [False] * 3, [True] * 3])
    np.testing.assert_allclose(values[:2], [[-1, 1, 2], [1, 0, 1]], atol=1e-6)
    assert np.isfinite(values).all()


def test_dates_and_floats_as_classes():
    dates = pd.to_datetime(["2020-01-01", "2021-01-01"])
    assert encoder("categorical", dates).cardinalities == (2,)
    np.testing.assert_array_equal(encoder("categorical", [0.5, 1.5]).encode(rows(x=[1.5, 0.5]))[0][:, 0], [1, 0])
    with pytest.raises(TableError, match="infinite"):
        encoder("categorical", [1.0, 2.0, np.inf])


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("fitted"),
        lambda s: s.update(fitted=s["fitted"][1:]),
        lambda s: s.update(dropped="age"),
        lambda s: s["fitted"][0].update(std=0.0),
        lambda s: s["fitted"][0].update(mean="1"),
        lambda s: s["fitted"][0].update(classes=["a"]),
        lambda s: s["fitted"][1].update(mode=2),
        lambda s: s["fitted"][1].update(classes=[1, 2]),
        lambda s: s["schema"][0].update(kind=["continuous"]),
        lambda s: s["schema"][0].update(extra="x"),
        lambda s: s.update(schema={}),
        lambda s: s.update(imputer={"weights": [[0.0, 0.0]], "offsets": [0.0], "low": [0.0], "high": [0.0]}),
    ],
)
def test_json_of_another_structure_is_a_table_error(change):
    frame = rows(age=[40.0, 60.0, np.nan], sex=["male", "female", None])
    state = json.loads(json.dumps(TableEncoder.fit(frame, SCHEMA.select("age,sex")).to_json()))
    assert TableEncoder.from_json(state)
    change(state)
    with pytest.raises(TableError):
        TableEncoder.from_json(state)
