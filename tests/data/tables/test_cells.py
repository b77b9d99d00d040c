import json

import numpy as np
import pandas as pd
import pytest

from morphojax.data.tables.cells import check, volumes
from morphojax.data.tables.schema import Column, Schema, TableError
from tests.data.tables.test_schema import SCHEMA


def rows(**columns):
    return pd.DataFrame(columns, index=[f"secret{i}" for i in range(len(next(iter(columns.values()))))])


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
