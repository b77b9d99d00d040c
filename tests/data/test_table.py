import json

import numpy as np
import pandas as pd
import pytest

from morphojax.data.table import Column, Schema, TableEncoder, TableError, check, read_dictionary, volumes

SCHEMA = Schema(
    (
        Column("lv_volume", "continuous", "cardiac_morphometric", "mL", leak=("segmentation",)),
        Column("lv_mass", "continuous", "cardiac_morphometric", "g"),
        Column("age", "continuous", "demographic", "years"),
        Column("sex", "binary", "demographic", categories=("female", "male")),
        Column("smoking", "categorical", "lifestyle", categories=("never", "past", "now")),
        Column("infarct", "binary", "medical_history", leak=("infarction", "diagnosis")),
    )
)


def rows(**columns):
    return pd.DataFrame(columns, index=[f"secret{i}" for i in range(len(next(iter(columns.values()))))])


def encoder(kind, training, **column):
    schema = Schema((Column("x", kind, "demographic", **column),))
    return TableEncoder.fit(rows(x=training), schema)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("all", "lv_volume lv_mass age sex smoking infarct"),
        ("cardiac_morphometric,demographic", "lv_volume lv_mass age sex"),
        ("smoking, lv_mass", "lv_mass smoking"),  # in the order of the schema
        ("-cardiac_morphometric", "age sex smoking infarct"),
        ("-cardiac_morphometric,-sex", "age smoking infarct"),
        ("demographic,-age", "sex"),
        ("-age,demographic", "sex"),
        ("all,-demographic,-lifestyle", "lv_volume lv_mass infarct"),
    ],
)
def test_select(spec, names):
    assert SCHEMA.select(spec).names == tuple(names.split())


def test_select_names_what_exists():
    with pytest.raises(TableError, match=r"'cardiac'.*Groups: cardiac_morphometric, demographic.*Columns: lv_volume"):
        SCHEMA.select("-cardiac")
    # a group that exists, but of which this table has no column: dropping it would be no ablation
    with pytest.raises(TableError, match="'haemodynamic'"):
        SCHEMA.select("-haemodynamic")


@pytest.mark.parametrize("spec", ["", " , ", "-all", "age,-demographic"])
def test_select_nothing(spec):
    with pytest.raises(TableError, match="leaves no column"):
        SCHEMA.select(spec)


def test_without_leaks():
    assert SCHEMA.without_leaks("segmentation").names == ("lv_mass", "age", "sex", "smoking", "infarct")
    assert SCHEMA.without_leaks("diagnosis").names == ("lv_volume", "lv_mass", "age", "sex", "smoking")
    assert SCHEMA.without_leaks("nothing") == SCHEMA


def test_schema_json():
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA


@pytest.mark.parametrize(
    "column",
    [
        {"name": "-x"},
        {"name": "all"},
        {"name": "lifestyle"},
        {"name": "a,b"},
        {"name": ""},
        {"kind": "ordinal"},
        {"group": "other"},
        {"categories": ("a", "b")},
        {"kind": "categorical", "categories": ("a", "a")},
        {"kind": "binary", "categories": ("a", "b", "c")},
        {"measures": "lv_cavity"},
        {"measures": "lv_cavity:ED:g"},  # nobody weighs blood
        {"measures": "lv_cavity:EF:ml"},
        {"measures": "lv_myocardium:EF:%"},
        {"kind": "binary", "measures": "lv_cavity:ED:ml"},
        {"unit": "ml/m2", "measures": "lv_cavity:ED:ml"},  # an index is no volume
    ],
)
def test_bad_columns(column):
    with pytest.raises(TableError):
        Column(**{"name": "x", "kind": "continuous", "group": "demographic"} | column)


def test_a_schema_that_measures_nothing_is_written_as_before_there_was_that_field():
    before = {
        "name": "age",
        "kind": "continuous",
        "group": "demographic",
        "unit": "years",
        "categories": [],
        "leak": [],
    }
    before["description"] = ""
    schema = Schema.from_json([before])
    assert schema.columns[0].measures == ""
    assert schema.to_json() == [before]  # so that the fingerprint of a dataset that was prepared with it stays
    assert json.dumps(schema.to_json()) == json.dumps([before])


def measured(**columns):
    """name=(measures, *cells): the frame and its schema."""
    schema = Schema(
        tuple(Column(n, "continuous", "cardiac_morphometric", measures=m) for n, (m, *_) in columns.items())
    )
    return rows(**{name: cells for name, (_, *cells) in columns.items()}), schema


def test_volumes():
    frame, schema = measured(
        edv=("lv_cavity:ED:ml", 120.0, 100.0, np.nan, 150.0),
        esv=("lv_cavity:ES:ml", 50.0, np.nan, np.nan, np.nan),
        ef=("lv_cavity:EF:%", 99.0, 60.0, 60.0, np.nan),  # the first does not agree with its volumes, which win
        mass=("lv_myocardium:ED:g", np.nan, 105.0, 210.0, np.nan),
        rv=("rv_cavity:ES:ml", 70.0, np.nan, 80.0, np.nan),
        age=("", 50.0, 50.0, 50.0, 50.0),
    )
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    found = volumes(frame, schema, ("lv_cavity", "lv_myocardium", "rv_cavity"))
    assert found.dtype == np.float32
    nan = np.nan
    expected = [
        [[120, nan, nan], [50, nan, 70]],
        [[100, 100, nan], [40, nan, nan]],
        [[nan, 200, nan], [nan, nan, 80]],
        [[150, nan, nan], [nan, nan, nan]],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    other = volumes(frame, schema, ("rv_cavity", "la_cavity"), ("ES", "mid", "ED"))
    assert other.shape == (4, 3, 2)
    np.testing.assert_array_equal(other[:, 0, 0], found[:, 1, 2])
    assert np.isnan(other[:, 1:]).all() and np.isnan(other[..., 1]).all()
    assert volumes(frame, schema.select("age"), ("lv_cavity",)).shape == (4, 2, 1)
    assert np.isnan(volumes(frame, schema.select("age"), ("lv_cavity",))).all()


def test_volumes_of_several_columns():
    """A volume goes before a mass, and a column before those that follow it, where it is filled."""
    frame, schema = measured(
        mass=("lv_myocardium:ED:g", 105.0, 105.0, 105.0),
        reader=("lv_myocardium:ED:ml", 90.0, np.nan, np.nan),
        machine=("lv_myocardium:ED:ml", 80.0, 80.0, np.nan),
    )
    np.testing.assert_allclose(volumes(frame, schema, ("lv_myocardium",), ("ED",)).ravel(), [90, 80, 100])


@pytest.mark.parametrize(
    ("measures", "cell"),
    [("lv_cavity:ED:ml", 0.0), ("lv_cavity:ES:ml", -1.0), ("lv_myocardium:ED:g", -9.0), ("lv_cavity:EF:%", 100.0)],
)
def test_what_cannot_be_a_volume(measures, cell):
    frame, schema = measured(x=(measures, 50.0, np.nan, cell))
    for call in (lambda: check(frame, schema), lambda: volumes(frame, schema, ("lv_cavity",))):
        with pytest.raises(TableError, match=rf"'x', row 2 .*{cell:g} cannot be {measures}"):
            call()


def test_a_negative_ejection_fraction_is_possible():
    frame, schema = measured(edv=("rv_cavity:ED:ml", 100.0), ef=("rv_cavity:EF:%", -5.0))
    np.testing.assert_allclose(volumes(frame, schema, ("rv_cavity",)).ravel(), [100, 105])


def test_volumes_of_unknown_names():
    frame, schema = measured(edv=("lv_cavity:ED:ml", 120.0))
    with pytest.raises(TableError, match="left_ventricle"):
        volumes(frame, schema, ("left_ventricle",))
    with pytest.raises(TableError, match="diastole"):
        volumes(frame, schema, ("lv_cavity",), ("diastole",))


def test_columns_twice():
    with pytest.raises(TableError, match="twice: age"):
        Schema((SCHEMA.columns[2], SCHEMA.columns[2]))


def test_read_dictionary(tmp_path):
    path = tmp_path / "dictionary.csv"
    path.write_text(
        "\ufeffname,kind,group,unit,categories,leak,description,measures\n"
        'lv_volume,continuous,cardiac_morphometric,mL,,segmentation,"Volume, at ED",lv_cavity:ED:ml\n'
        "smoking,categorical,lifestyle,,never; past;now,,,\n"
        "infarct,binary,medical_history,,,infarction;diagnosis,,\n",
        encoding="utf-8",
    )
    schema = read_dictionary(path)
    assert schema.names == ("lv_volume", "smoking", "infarct")
    assert schema.columns[0].description == "Volume, at ED"
    assert schema.columns[0].leak == ("segmentation",)
    assert schema.columns[0].measures == "lv_cavity:ED:ml"
    assert schema.columns[1].categories == ("never", "past", "now")
    assert schema.columns[2].leak == ("infarction", "diagnosis")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,kind\nage,continuous\n", "header"),
        ("name,kind,group,units\nage,continuous,demographic,y\n", "header"),
        ("name,kind,group\nage,continuos,demographic\n", "line 2.*'continuos'"),
        ("name,kind,group,measures\nv,continuous,cardiac_morphometric,LVEDV\n", "line 2.*'LVEDV'"),
        ("name,kind,group\nage,continuous\n", "line 2: 3 fields"),
        ("name,kind,group\nage,continuous,demographic,a\n", "line 2: 3 fields"),
        ("name,kind,group\nage,continuous,demographic\nage,continuous,demographic\n", "twice: age"),
    ],
)
def test_bad_dictionary(tmp_path, text, message):
    path = tmp_path / "dictionary.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=rf"dictionary\.csv.*{message}"):
        read_dictionary(path)
    with pytest.raises(TableError, match=r"absent\.csv"):
        read_dictionary(tmp_path / "absent.csv")


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
    train, other = frame[:40], frame[40:]
    values, missing = TableEncoder.fit(train, schema).encode(other)

    scaler = preprocessing.StandardScaler().fit(train[["u", "v"]].to_numpy())
    mean = impute.SimpleImputer(strategy="mean").fit(train[["u", "v"]].to_numpy())
    expected = scaler.transform(mean.transform(other[["u", "v"]].to_numpy()))
    np.testing.assert_allclose(values[:, :2], expected, atol=1e-6)
    texts = frame[["w"]].astype(object).where(frame[["w"]].notna(), None).to_numpy()
    mode = impute.SimpleImputer(strategy="most_frequent", missing_values=None).fit(texts[:40])
    expected = preprocessing.OrdinalEncoder().fit([["a"], ["b"], ["c"]]).transform(mode.transform(texts[40:]))
    np.testing.assert_array_equal(values[:, 2:], expected)
    np.testing.assert_array_equal(missing, other.isna().to_numpy())
    assert missing.any(axis=0).all()


def test_training_rows_alone_decide():
    fitted = encoder("continuous", [1.0, 3.0])
    alone, _ = fitted.encode(rows(x=[5.0]))
    among, _ = fitted.encode(rows(x=[5.0, 1e6]))
    assert alone[0, 0] == among[0, 0] == 3  # (5 - 2) / 1


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
    # one NaN turns a column of integer codes into floats
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
        "tenth": [0.1] * 3,  # whose computed SD is not zero: the mean of three 0.1 is not 0.1
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


def test_unseen_category_is_missing_and_counted(caplog):
    fitted = encoder("categorical", ["a", "b", "b"])
    with caplog.at_level("WARNING"):
        values, missing = fitted.encode(rows(x=["z", "a", "y", "z", None]))
    np.testing.assert_array_equal(values[:, 0], [1, 0, 1, 1, 1])
    np.testing.assert_array_equal(missing[:, 0], [True, False, True, True, True])
    assert "3 values of 2 classes" in caplog.text
    assert "secret" not in caplog.text


def test_category_outside_the_dictionary_stops_training():
    with pytest.raises(TableError, match=r"'x'.*'later'.*never"):
        encoder("categorical", ["never", "now", "later"], categories=("never", "now"))
    with pytest.raises(TableError, match=r"'x'.*'2'"):
        encoder("binary", [1, 2, 1])


@pytest.mark.parametrize(
    ("cell", "message"), [("12,5", "'12,5' is not a number"), (np.inf, "infinite"), ("-inf", "inf")]
)
def test_bad_number(cell, message):
    good, bad = rows(x=[1.0, 2.0]), rows(x=[1.0, 2.0, cell])
    schema = Schema((Column("x", "continuous", "demographic"),))
    fitted = TableEncoder.fit(good, schema)
    for call in (lambda: TableEncoder.fit(bad, schema), lambda: fitted.encode(bad), lambda: check(bad, schema)):
        with pytest.raises(TableError, match=message) as error:
            call()
        assert "'x', row 2" in str(error.value)
        assert "secret" not in str(error.value)


def test_value_beyond_float32():
    with pytest.raises(TableError, match=r"'x'.*too far"):
        encoder("continuous", [1.0, 2.0]).encode(rows(x=[1e300]))


def test_absent_and_doubled_column():
    frame = rows(age=[1, 2])
    with pytest.raises(TableError, match="no column 'lv_volume'"):
        check(frame, SCHEMA)
    with pytest.raises(TableError, match="'age' twice"):
        check(pd.concat([frame, frame], axis=1), SCHEMA.select("age"))


def test_check_counts_values_outside_the_categories():
    frame = rows(sex=["male", "f", "F", None], smoking=["now", "past", "never", "now"])
    (warning,) = check(frame, SCHEMA.select("sex,smoking"))
    assert "'sex': 2 values" in warning


def test_all_missing_rows_and_json():
    frame = rows(age=[40.0, 60.0, np.nan], sex=["male", "female", None], smoking=["now", "past", None])
    fitted = TableEncoder.fit(frame, SCHEMA.select("age,sex,smoking"))
    again = TableEncoder.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    values, missing = again.encode(frame)
    np.testing.assert_array_equal(missing, [[False] * 3, [False] * 3, [True] * 3])
    np.testing.assert_allclose(values[:2], [[-1, 1, 2], [1, 0, 1]], atol=1e-6)
    assert np.isfinite(values).all()


def test_other_cells_as_classes():
    dates = pd.to_datetime(["2020-01-01", "2021-01-01"])
    assert encoder("categorical", dates).cardinalities == (2,)
    np.testing.assert_array_equal(encoder("categorical", [0.5, 1.5]).encode(rows(x=[1.5, 0.5]))[0][:, 0], [1, 0])
    with pytest.raises(TableError, match="infinite"):
        encoder("categorical", [1.0, 2.0, np.inf])
