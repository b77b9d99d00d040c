"""Tables as spreadsheets save them, in every file of a cohort that a person writes."""

import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.table_files import read_rows, read_table
from morphojax.data.tables.delimited import read_lines
from morphojax.data.tables.dictionary import read_dictionary
from morphojax.data.tables.schema import Column, Schema, TableError

PLAIN = "subject,age,sex\np1,61.5,F\np2,,M\np3,7,\n"
SCHEMA = Schema(
    (
        Column("age", "continuous", "demographic", "years", (), (), ""),
        Column("sex", "categorical", "demographic", "", (), (), ""),
    )
)
DIALECTS = {
    "comma at the end of every line": lambda text: text.replace("\n", ",\n"),
    "commas at the end of the rows": lambda text: text.replace("\n", ",,\n").replace(",,", "", 1),
    "blanks around the cells": lambda text: text.replace(",", " , ").replace("\n", " \n "),
    "semicolons": lambda text: text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "byte order mark": lambda text: "\ufeff" + text,
    "lines of Windows": lambda text: text.replace("\n", "\r\n"),
    "quoted cells": lambda text: "\n".join(
        ",".join(f'"{c}"' for c in line.split(",")) for line in text.split("\n")[:-1]
    ),
    "a hint for Excel": lambda text: "sep=;\n" + text.replace(",", ";"),
    "empty lines": lambda text: "\n" + text.replace("\n", "\n\n") + ",,\n",
}


@pytest.fixture(params=DIALECTS)
def saved(request, tmp_path):
    def save(text):
        path = tmp_path / "table.csv"
        path.write_bytes(DIALECTS[request.param](text).encode())
        return path

    return save


def test_a_table_is_read_in_every_dialect(saved):
    frame, _ = read_table(saved(PLAIN), "subject", SCHEMA)
    assert frame.index.tolist() == ["p1", "p2", "p3"]
    np.testing.assert_array_equal(frame["age"], [61.5, np.nan, 7])
    assert [None if v != v else v for v in frame["sex"]] == ["F", "M", None]


def test_a_dictionary_is_read_in_every_dialect(saved):
    schema = read_dictionary(saved("name,kind,group,unit\nage,continuous,demographic,years\nsex,binary,demographic,\n"))
    assert [(c.name, c.kind, c.unit) for c in schema.columns] == [("age", "continuous", "years"), ("sex", "binary", "")]


def test_rows_are_read_in_every_dialect(saved):
    header, rows = read_rows(saved(PLAIN), ("subject",))
    assert header == ("subject", "age", "sex")
    assert [row for _, row in rows] == [dict(zip(header, line.split(","), strict=True)) for line in PLAIN.split()[1:]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv: is empty"),
        ("subject,age\np1,61,80\n", "table.csv: line 2: 3 cells under a header of 2"),
        ("subject,age,sex\np1,61\n", "table.csv: line 2: 2 cells under a header of 3"),
        ("subject,age,age\np1,61,1\n", "the column age appears twice"),
        ("subject,age,sex\np1,61,80,5,F\n", "write numbers with a decimal point"),
        ("subject;age;sex\np1;61,5;F\n", "'61,5' is not a number.*decimals with a point"),
        ('subject,age,sex\np1,61,"F\n', "cannot be read as a table"),
    ],
)
def test_other_lines_are_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_table(tmp_path / "table.csv", "subject", SCHEMA)


def test_a_line_break_in_a_cell_loses_no_row(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('subject,age,"note\n(free)",sex\np1,61,"a\nb",F\np2,55,,M\n')
    frame, _ = read_table(path, "subject", SCHEMA)
    assert frame.index.tolist() == ["p1", "p2"] and frame["age"].tolist() == [61, 55]


@pytest.mark.parametrize("cell", ["1_000", "TRUE", "NA", "80.5 kg"])
def test_words_are_no_numbers(tmp_path, cell):
    (tmp_path / "table.csv").write_text(f"subject,age,sex\np1,{cell},F\n")
    with pytest.raises(CohortError, match=f"row 0 .*'{cell}' is not a number"):
        read_table(tmp_path / "table.csv", "subject", SCHEMA)


def test_absent_and_binary_files_are_refused(tmp_path):
    with pytest.raises(TableError, match="cannot be read as a table"):
        read_lines(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00,")
    with pytest.raises(TableError, match="save it as CSV, UTF-8"):
        read_lines(tmp_path / "binary.csv")
