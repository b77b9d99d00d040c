import json

import numpy as np
import pandas as pd
import pytest

from morphojax.data.tables.cells import areas, check, volumes
from morphojax.data.tables.schema import Column, Schema, TableError
from tests.data.tables.test_schema import SCHEMA


def rows(**columns):
    return pd.DataFrame(columns, index=[f"secret{i}" for i in range(len(next(iter(columns.values()))))])


def measured(**columns):
    """The frame and schema of columns given as name=(measures, *cells)."""
    schema = Schema(
        tuple(Column(n, "continuous", "cardiac_morphometric", measures=m) for n, (m, *_) in columns.items())
    )
    return rows(**{name: cells for name, (_, *cells) in columns.items()}), schema


def test_a_formula_is_no_class():
    frame = pd.DataFrame({"diagnosis": ["NOR", "=HYPERLINK(1)"]})
    schema = Schema((Column("diagnosis", "categorical", "medical_history", "", (), (), ""),))
    with pytest.raises(TableError, match=r"row 1 .*'=HYPERLINK\(1\)' is a formula"):
        check(frame, schema)


def test_volumes():
    frame, schema = measured(
        edv=("lv_cavity:ED:ml", 120.0, 100.0, np.nan, 150.0),
        esv=("lv_cavity:ES:ml", 50.0, np.nan, np.nan, np.nan),
        ef=("lv_cavity:EF:%", 99.0, 60.0, 60.0, np.nan),  # the first contradicts the volumes, which win
        mass=("lv_myocardium:ED:g", np.nan, 105.0, 210.0, np.nan),
        rv=("rv_cavity:ES:ml", 70.0, np.nan, 80.0, np.nan),
        age=("", 50.0, 50.0, 50.0, 50.0),
    )
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    result = volumes(frame, schema, ("lv_cavity", "lv_myocardium", "rv_cavity"))
    assert result.dtype == np.float32
    nan = np.nan
    expected = [
        [[120, nan, nan], [50, nan, 70]],
        [[100, 100, nan], [40, 100, nan]],  # the mass is the same at both phases
        [[nan, 200, nan], [nan, 200, 80]],
        [[150, nan, nan], [nan, nan, nan]],
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    reordered = volumes(frame, schema, ("rv_cavity", "la_cavity"), ("ES", "mid", "ED"))
    assert reordered.shape == (4, 3, 2)
    np.testing.assert_array_equal(reordered[:, 0, 0], result[:, 1, 2])
    assert np.isnan(reordered[:, 1:]).all() and np.isnan(reordered[..., 1]).all()
    assert volumes(frame, schema.select("age"), ("lv_cavity",)).shape == (4, 2, 1)
    assert np.isnan(volumes(frame, schema.select("age"), ("lv_cavity",))).all()


def test_areas():
    """Of one plane and phase; from nothing but the columns that measure them."""
    frame, schema = measured(
        la4=("la_cavity:la_4ch:ES:cm2", 20.0, np.nan),
        la2=("la_cavity:la_2ch:ES:cm2", 18.0, 19.0),
        volume=("la_cavity:ES:ml", 60.0, 70.0),
    )
    result = areas(frame, schema, ("ra_cavity", "la_cavity"), ("ED", "ES"), "la_4ch")
    nan = np.nan
    np.testing.assert_array_equal(result, [[[nan, nan], [nan, 20]], [[nan, nan], [nan, nan]]])
    assert areas(frame, schema, ("la_cavity",), ("ES",), "la_2ch").ravel().tolist() == [18, 19]
    with pytest.raises(TableError, match="left_ventricle"):
        areas(frame, schema, ("left_ventricle",), ("ED",), "la_4ch")


def test_volumes_of_several_columns():
    """A volume wins over a mass, and an earlier column over a later one, where it is filled."""
    frame, schema = measured(
        mass=("lv_myocardium:ED:g", 105.0, 105.0, 105.0),
        reader=("lv_myocardium:ED:ml", 90.0, np.nan, np.nan),
        machine=("lv_myocardium:ED:ml", 80.0, 80.0, np.nan),
    )
    np.testing.assert_allclose(volumes(frame, schema, ("lv_myocardium",), ("ED",)).ravel(), [90, 80, 100])


@pytest.mark.parametrize(
    ("measures", "cell"),
    [
        ("lv_cavity:ED:ml", 0.0),
        ("lv_cavity:ED:ml", 1e-60),
        ("lv_cavity:ES:ml", -1.0),
        ("lv_myocardium:ED:g", -9.0),
        ("lv_cavity:EF:%", 100.0),
    ],
)
def test_impossible_measures_are_refused(measures, cell):
    frame, schema = measured(x=(measures, 50.0, np.nan, cell))
    for call in (lambda: check(frame, schema), lambda: volumes(frame, schema, ("lv_cavity",))):
        with pytest.raises(TableError, match=rf"'x', row 2 .*{cell:g} cannot be {measures}"):
            call()


def test_a_negative_ejection_fraction_is_possible():
    frame, schema = measured(edv=("rv_cavity:ED:ml", 100.0), ef=("rv_cavity:EF:%", -5.0))
    np.testing.assert_allclose(volumes(frame, schema, ("rv_cavity",)).ravel(), [100, 105])


def test_unknown_structures_and_phases_are_refused():
    frame, schema = measured(edv=("lv_cavity:ED:ml", 120.0))
    with pytest.raises(TableError, match="left_ventricle"):
        volumes(frame, schema, ("left_ventricle",))
    with pytest.raises(TableError, match="diastole"):
        volumes(frame, schema, ("lv_cavity",), ("diastole",))


def test_absent_and_repeated_columns_are_refused():
    frame = rows(age=[1, 2])
    with pytest.raises(TableError, match="no column 'lv_volume'"):
        check(frame, SCHEMA)
    with pytest.raises(TableError, match="'age' twice"):
        check(pd.concat([frame, frame], axis=1), SCHEMA.select("age"))


def test_check_counts_values_outside_the_categories():
    frame = rows(sex=["male", "f", "F", None], smoking=["now", "past", "never", "now"])
    (warning,) = check(frame, SCHEMA.select("sex,smoking"))
    assert "'sex': 2 values" in warning
