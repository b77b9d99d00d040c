from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from morphojax.data.sources.table_files import read_table
from morphojax.data.tables import ukb_export
from morphojax.data.tables.cells import texts_of
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import GROUPS, Column, TableError
from morphojax.data.tables.ukb_export import read_export
from morphojax.data.tables.ukb_fields import Field, registry
from morphojax.data.tables.ukb_headers import UkbTableSpec
from morphojax.data.tables.ukb_values import combine
from tests.data.tables.ukb_exports import DIALECTS, EXPECTED, IDS, VALUES, export, verbose


def assert_same(frame: pd.DataFrame, expected=EXPECTED) -> None:
    assert frame.index.tolist() == IDS and set(frame.columns) == set(expected)
    for name, values in expected.items():
        if isinstance(values[0], str):
            assert [None if pd.isna(v) else v for v in frame[name]] == values
        else:
            np.testing.assert_array_equal(frame[name], values)


@pytest.mark.parametrize("sep", [",", "\t"])
@pytest.mark.parametrize("key", DIALECTS)
def test_every_dialect_gives_the_same_table(key: str, sep: str, tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv", key, DIALECTS[key], sep=sep)
    assert ukb_export.is_export(path)
    frame, schema = read_export(path)
    assert_same(frame)
    assert frame.columns.tolist() == list(schema.names)  # in the order of the registry
    TableEncoder.fit(frame, schema)


def test_titles_as_headers(tmp_path: Path) -> None:
    unique = {k: v for k, v in VALUES.items() if k[0] not in (24103, 24100)}
    frame, _ = read_export(export(tmp_path / "t.csv", "Participant ID", verbose, unique))
    assert_same(frame, {k: v for k, v in EXPECTED.items() if not k.startswith("lv_")})
    with pytest.raises(
        TableError, match=r"'LV ejection fraction \| Instance 2' is the title of several fields \(22420, 24103"
    ):
        read_export(export(tmp_path / "t.csv", "Participant ID", verbose))


def test_a_parquet_file_gives_the_same_table(tmp_path: Path) -> None:
    pd.read_csv(export(tmp_path / "t.csv")).to_parquet(tmp_path / "t.parquet")
    frame, _ = read_export(tmp_path / "t.parquet")
    assert_same(frame)


def test_a_spec_chooses_the_visit_and_the_fields(tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv")
    frame, schema = read_export(path, UkbTableSpec(visit=3))
    assert frame["lv_ejection_fraction_24103"].iloc[1] == 59 and schema.names == (
        "sex_31",
        "lv_ejection_fraction_24103",
    )
    assert read_export(path, UkbTableSpec("24103,31"))[1].names == ("sex_31", "lv_ejection_fraction_24103")
    (tmp_path / "ids.txt").write_text("24103\n31\n")
    assert read_export(path, UkbTableSpec(str(tmp_path / "ids.txt")))[1].names == (
        "sex_31",
        "lv_ejection_fraction_24103",
    )
    heart_fields = read_export(path, UkbTableSpec("cardiac_morphometric"))[1]
    assert set(heart_fields.groups) == {"cardiac_morphometric"} and len(heart_fields.columns) == 2
    assert heart_fields.columns[0].measures == "lv_cavity:ED:ml"
    assert "usual_walking_pace_924" in read_export(path, UkbTableSpec("published_118"))[1].names
    with pytest.raises(TableError, match=r"field 24106 is absent at instance 2"):
        read_export(path, UkbTableSpec("24103,24106"))
    with pytest.raises(TableError, match="'heart' is not a field of the registry"):
        read_export(path, UkbTableSpec("heart"))
    with pytest.raises(TableError, match="no field of the registry at instance 3"):
        read_export(export(tmp_path / "t.csv", values={(24100, 2, 0): VALUES[24100, 2, 0]}), UkbTableSpec(visit=3))


def test_a_dictionary_changes_fields_and_adds_headers(tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv", values=VALUES | {(77, 2, 0): ["1.5", "2", "", "4"]})
    about = tmp_path / "d.csv"
    about.write_text(
        "name,kind,group,unit,leak\n77-2.0,continuous,lifestyle,m,\nusual_walking_pace_924,categorical,medical_history,,frailty\n"
    )
    frame, schema = read_export(path, dictionary=about)
    columns = {c.name: c for c in schema.columns}
    assert columns["usual_walking_pace_924"].leak == ("frailty",) and columns["77-2.0"].unit == "m"
    np.testing.assert_array_equal(frame["77-2.0"], [1.5, 2, np.nan, 4])
    about.write_text("name,kind,group\nnobody,continuous,lifestyle\n")
    with pytest.raises(TableError, match="the dictionary describes 'nobody'"):
        read_export(path, dictionary=about)


NO_VALUE = ["None", "NA", "nan", "NaN", "N/A", "n/a", "null", "NULL", "#N/A", "<NA>", "-nan"]  # to pandas


def in_every_table(
    root: Path, ids: list[str], about: str, header: str, cells: list[str]
) -> dict[str, list[str | None]]:
    """The classes of a column that a dictionary describes, by the kind of its table."""
    root.mkdir()
    (root / "dictionary.csv").write_text(f"name,kind,group,field,categories\n{about}\n")
    (root / "plain.csv").write_text("name,kind,group\ndrug,categorical,lifestyle\n")
    frame = pd.DataFrame({"subject": ids, "drug": cells})
    frame.to_csv(root / "table.csv", index=False)
    plain, schema = read_table(root / "table.csv", "subject", root / "plain.csv")
    classes = {"a table": texts_of(plain, schema.columns[0])}
    frame.columns = ["eid", header]
    frame.to_csv(root / "e.csv", index=False)
    frame.to_csv(root / "e.tsv", index=False, sep="\t")
    frame.to_parquet(root / "e.parquet")
    for path in (root / "e.csv", root / "e.tsv", root / "e.parquet"):
        read, schema = read_export(path, dictionary=root / "dictionary.csv")
        classes[path.name] = texts_of(read, next(c for c in schema.columns if c.name == "drug"))
    return classes


def test_every_text_but_an_empty_one_is_a_class_in_every_table(tmp_path: Path) -> None:
    cells = ["x", *NO_VALUE, "y", "", " "]
    ids = [str(1000017 + i) for i in range(len(cells))]
    expected = ["x", *NO_VALUE, "y", None, None]
    described = {
        "header": ("drug,categorical,lifestyle,,", "drug"),
        "id": ("drug,categorical,lifestyle,20003,", "20003-2.0"),
        "registry": (f"drug,categorical,lifestyle,20116,{';'.join(['x', *NO_VALUE, 'y'])}", "20116-2.0"),
    }
    for name, (about, header) in described.items():
        found = in_every_table(tmp_path / name, ids, about, header, cells)
        assert found == dict.fromkeys(found, expected), name


@pytest.mark.parametrize("word", NO_VALUE)
def test_a_missing_number_or_code_is_written_in_many_ways(tmp_path: Path, word: str) -> None:
    """R writes NA, pandas nothing; a dictionary's `missing` lists the words for texts."""
    path = tmp_path / "t.csv"
    path.write_text(f"eid,31-0.0,48-2.0,drug\n1000017,{word},80,x\n1000028,1,{word},{word}\n")
    about = tmp_path / "d.csv"
    about.write_text(f"name,kind,group,missing\ndrug,categorical,lifestyle,{word}\n")
    frame, _ = read_export(path, dictionary=about)
    assert frame.isna().to_numpy().tolist() == [[True, False, False], [False, True, True]]


def test_the_registry_is_consistent() -> None:
    fields = registry()
    assert len(fields) > 300 and len({f.column.name for f in fields.values()}) == len(fields)
    heart_fields = {i for i, f in fields.items() if f.column.group == "cardiac_morphometric"}
    assert {
        *range(22420, 22426),
        *range(24100, 24124),
        24140,
        24157,
        24174,
        24181,
    } <= heart_fields  # including the scanner's own analysis
    assert {f.column.group for f in fields.values()} <= set(GROUPS)
    assert fields[924].missing == ("-3", "-7") and fields[1289].less_than_one and fields[31].once
    assert all(f.column.kind != "continuous" or f.missing == () or "-10" not in f.missing for f in fields.values())


BAD = {
    "twice the same id": (dict(ids=[*IDS[:3], IDS[0]]), r"row 3 repeats a participant \(1 rows"),
    "a header in between": (dict(ids=[*IDS[:2], "eid", IDS[3]]), "row 2 repeats the header"),
    "rounded by a spreadsheet": (
        dict(ids=[*IDS[:3], "1.00004E+06"]),
        "row 3 has no participant id made of digits only",
    ),
    "no id": (dict(ids=[*IDS[:3], ""]), "row 3 has no participant id"),
    "an id that lost a digit": (dict(ids=[*IDS[:3], "100004"]), "ids have 6 and 7 digits"),
    "a date in a number": (
        dict(values={(24103, 2, 0): ["61.5", "", "01-Feb", "40"]}),
        "'24103-2.0': 1 entries are not numbers or too large, the first in row 2",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_damaged_exports_are_refused(bad: str, tmp_path: Path) -> None:
    settings, message = BAD[bad]
    with pytest.raises(TableError, match=message) as caught:
        read_export(export(tmp_path / "t.csv", **settings))
    assert not any(i in str(caught.value) for i in IDS)


def test_two_headers_of_one_field_are_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv")
    frame = pd.read_csv(path, dtype=str)
    frame["f.24103.2.0"] = frame["24103-2.0"]
    frame.to_csv(path, index=False)
    with pytest.raises(TableError, match=r"'24103-2.0' and 'f.24103.2.0' are the same field"):
        read_export(path)
    path.write_text("eid,31-0.0,31-0.0\n1,0,0\n")
    with pytest.raises(TableError, match=r"'31-0.0' appears twice"):
        read_export(path)


def test_files_that_are_not_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"")
    with pytest.raises(TableError, match="its first line is empty"):
        ukb_export.is_export(path)
    path.write_bytes("eid,31-0.0,é\n1,0,\n".encode("latin-1"))
    with pytest.raises(TableError, match="cannot be read as a table"):
        ukb_export.is_export(path)
    path.write_bytes(b"eid,31-0.0\n1000017,\xe9\n")
    with pytest.raises(TableError, match="cannot be read as a table"):
        read_export(path)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TableError, match="cannot be read as a table"):
        ukb_export.is_export(tmp_path / "t.parquet")
    path.write_text("subject,31-0.0\n1,0\n")
    assert not ukb_export.is_export(path)
    with pytest.raises(TableError, match="no column of participant ids"):
        read_export(path)


def test_a_corrupted_export_gives_a_table_or_a_table_error(tmp_path: Path) -> None:
    """Bytes of a good export are changed, removed, repeated or inserted."""
    good, rng, read = export(tmp_path / "t.csv").read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(data)))
            match rng.integers(4):
                case 0:
                    data[at] = int(rng.integers(256))
                case 1:
                    del data[at : at + int(rng.integers(1, 30))]
                case 2:
                    data[at:at] = data[at : at + 40]
                case 3:
                    data[at:at] = bytes(rng.choice([b",", b"\n", b'"', b"\t", b"\x00", b"-10", b"1e999"]))
        (tmp_path / "t.csv").write_bytes(bytes(data))
        try:
            read_export(tmp_path / "t.csv")
            read += 1
        except TableError:
            pass
    assert 0 < read < 150


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eid,31-0.0,48-2.0\n1000017,1,80\n1000028,1,80,3\n", "line 3 has 4 columns under a header of 3"),
        ("eid,31-0.0,48-2.0\n1000017,1\n", "line 2 has 2 columns under a header of 3"),
        ('eid,31-0.0,48-2.0\n1000017,1,"80\n', "line 2 opens a quotation"),
        ("eid,f.eid,31-0.0\n1000017,1000017,1\n", "'eid' and 'f.eid' are both participant ids"),
        ("eid,p48_i2,p48\n1000017,80,81\n", "'p48_i2' and 'p48' are the same field"),
        ("eid,48-2.0\n1000017,True\n", "1 entries are not numbers or too large"),
        ("eid,48-2.0\n1000017,1e999\n", "1 entries are not numbers or too large"),
        ("eid,p31\n1000017,Male\n", "1 entries are not codes, the first in row 0"),
        ("Participant ID,Beef intake | Instance 2\n1000017,3\n", r"several fields \(1369, 103020\)"),
        ("eid,48-2.0\n", "it has a header and no rows"),
    ],
)
def test_damage_that_pandas_reads_silently_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        read_export(tmp_path / "t.csv")
    assert "1000017" not in str(caught.value)


def test_quoted_cells_may_contain_separators_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('eid,note,48-2.0\r\n"1000017","a, ""b""\nc",80\r\n\r\n1000028,,81\r\n')
    frame, _ = read_export(tmp_path / "t.csv")
    assert frame["waist_circumference_48"].tolist() == [80, 81] and frame.index.tolist() == ["1000017", "1000028"]


def test_a_shared_title_of_an_unselected_field_is_accepted(tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv", "Participant ID", verbose)
    assert read_export(path, UkbTableSpec("4080,31"))[1].names == (
        "sex_31",
        "systolic_blood_pressure_automated_reading_4080",
    )


def test_a_dictionary_describes_fields_by_id(tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv", values=VALUES | {(77, 2, 0): ["1.5", "-9", "", "4"]})
    about = tmp_path / "d.csv"
    about.write_text(
        "name,kind,group,field,missing\nef,continuous,cardiac_morphometric,24103,55\nlength,continuous,lifestyle,77,-9\n"
    )
    frame, schema = read_export(path, UkbTableSpec("77,24103"), dictionary=about)
    assert schema.names == ("ef", "length")
    np.testing.assert_array_equal(frame["ef"], [61.5, np.nan, np.nan, 40.25])
    np.testing.assert_array_equal(frame["length"], [1.5, np.nan, np.nan, 4])
    with pytest.raises(TableError, match="field 77 is absent at instance 3"):
        read_export(path, UkbTableSpec(visit=3), about)
    about.write_text("name,kind,group,field\nef,continuous,lifestyle,LVEF\n")
    with pytest.raises(TableError, match="field 'LVEF' is not a field id"):
        read_export(path, dictionary=about)


def test_presets_contain_their_fields(tmp_path: Path) -> None:
    heart_fields = {i for i, f in registry().items() if f.column.group == "cardiac_morphometric"}
    assert {*range(22420, 22428), *range(24100, 24182)} <= heart_fields
    assert all("segmentation" in registry()[i].column.leak for i in range(24100, 24182))
    assert sum(f.published for f in registry().values()) > 100
    (tmp_path / "fields.txt").write_text("published_118\n46, 47\n")
    path = export(tmp_path / "t.csv", values=VALUES | {(46, 2, 0): ["30"] * 4, (47, 2, 0): ["31"] * 4})
    frame, schema = read_export(path, UkbTableSpec(str(tmp_path / "fields.txt")))
    assert {"hand_grip_strength_left_46", "hand_grip_strength_right_47"} <= set(schema.names) and len(frame) == 4


def test_texts_that_are_not_utf8_in_parquet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.read_csv(export(tmp_path / "t.csv"), dtype={"eid": str})
    frame.to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"1000028", b"\xff000028"))
    with pytest.raises(TableError, match=r"not UTF-8|cannot be read|no participant id"):
        read_export(path)


@pytest.mark.parametrize("column", ["24103-2.0", "924-2.0"])
def test_a_number_beyond_floats_is_refused(tmp_path: Path, column: str) -> None:
    path = export(tmp_path / "t.csv")
    frame = pd.read_csv(path, dtype=str)
    frame.loc[0, column] = "9" * 400
    frame.to_csv(path, index=False)
    with pytest.raises(TableError, match=r"too large|not codes|not numbers"):
        read_export(path)


def test_truth_values_are_no_numbers() -> None:
    field = Field(48, "", Column("waist", "continuous", "body_morphometric"), ())
    for cells in ([True, 80], [True, False]):
        with pytest.raises(TableError, match=r"are not numbers or too large, the first in row 0"):
            combine([pd.Series(cells, dtype=object, name="48-2.0")], field)
        with pytest.raises(TableError, match=r"are not numbers"):
            combine([pd.Series([True, False], name="48-2.0")], field)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [1.5e308, -2e30, np.inf])
def test_readings_too_large_for_a_measurement_are_refused(number) -> None:
    readings = [pd.Series([70.0, number], name=f"31-2.{i}") for i in range(2)]
    field = Field(31, "", Column("volume", "continuous", "cardiac_morphometric"), ())
    with pytest.raises(TableError, match=r"'31-2.0': 1 entries are not numbers or too large, the first in row 1"):
        combine(readings, field)
    assert combine([r[:1] for r in readings], field).tolist() == [70.0]
