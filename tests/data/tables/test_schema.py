import json

import pytest

from morphojax.data.tables.dictionary import read_dictionary
from morphojax.data.tables.schema import Column, Schema, TableError

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


def test_selecting_an_unknown_name_is_refused():
    with pytest.raises(TableError, match=r"'cardiac'.*Groups: cardiac_morphometric, demographic.*Columns: lv_volume"):
        SCHEMA.select("-cardiac")
    # A valid group without a column in this table: dropping it would change nothing.
    with pytest.raises(TableError, match="'haemodynamic'"):
        SCHEMA.select("-haemodynamic")


@pytest.mark.parametrize("spec", ["", " , ", "-all", "age,-demographic"])
def test_selecting_no_column_is_refused(spec):
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
        {"measures": "lv_cavity:ED:g"},  # a cavity has no mass
        {"measures": "lv_cavity:EF:ml"},
        {"measures": "lv_myocardium:EF:%"},
        {"kind": "binary", "measures": "lv_cavity:ED:ml"},
        {"unit": "ml/m2", "measures": "lv_cavity:ED:ml"},  # an index is not a volume
    ],
)
def test_bad_columns_are_refused(column):
    with pytest.raises(TableError):
        Column(**{"name": "x", "kind": "continuous", "group": "demographic"} | column)


def test_json_has_no_measures_where_it_is_empty():
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
    assert schema.to_json() == [before]  # older datasets keep their fingerprint
    assert json.dumps(schema.to_json()) == json.dumps([before])


def test_repeated_columns_are_refused():
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
        ("name,kind,group\nage,continuous\n", "cells under a header of 3"),
        ("name,kind,group\nage,continuous,demographic,a\n", "cells under a header of 3"),
        ("name,kind,group\nage,continuous,demographic\nage,continuous,demographic\n", "twice: age"),
    ],
)
def test_bad_dictionaries_are_refused(tmp_path, text, message):
    path = tmp_path / "dictionary.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=rf"dictionary\.csv.*{message}"):
        read_dictionary(path)
    with pytest.raises(TableError, match=r"absent\.csv"):
        read_dictionary(tmp_path / "absent.csv")
