"""Lists of withdrawals."""

import pytest

from morphojax.data.prepare.withdrawals import read_list
from morphojax.data.sources import CohortError

IDS = ["1000017", "1000028", "1000039"]
LINES = "\n".join(IDS)
HARMLESS = {
    "one id per line": LINES,
    "no line end, Windows lines": LINES.replace("\n", "\r\n"),
    "lines of an old Mac": LINES.replace("\n", "\r"),
    "a byte order mark": "\ufeff" + LINES,
    "blank lines": "\n\n" + LINES.replace("\n", "\n \n,,\n ; \n\t\n") + "\n\n",
    "blanks around ids": LINES.replace("10000", "  10000").replace("\n", " \t\n"),
    "a header": "eid\n" + LINES,
    "another header": " Participant ID \n" + LINES,
    "a quoted header after a byte order mark": '\ufeff"eid"\n' + LINES,
    "double quotes": "\n".join(f'"{i}"' for i in IDS),
    "a blank before the quotes": "\n".join(f' "{i}"' for i in IDS),
    "single quotes": "\n".join(f"'{i}'" for i in IDS),
    "the quote of a spreadsheet": "\n".join(f"'{i}" for i in IDS),
    "quotes of a word processor": "\n".join(f"\u201c{i}\u201d" for i in IDS),
    "commas at the ends": LINES.replace("\n", ",,\n"),
    "a semicolon at some ends": LINES.replace("28", "28;"),
    "a second column under a header": "eid,date\n" + LINES.replace("\n", ",2020\n"),
    "semicolons": "eid;date\n" + LINES.replace("\n", " ;2020\n"),
    "tabs": "eid\tdate\n" + LINES.replace("\n", "\t2020\n"),
    "a hint for Excel": "sep=;\neid;date\n" + LINES.replace("\n", ";2020\n"),
    "ids in the second column": "date,eid,why\n" + "\n".join(f'2020,{i},"a, b; c"' for i in IDS),
}
HARMFUL = {
    "rounded": (LINES + "\n1.23457E+06", 4),
    "a decimal point": (LINES.replace("28", "28.0"), 2),
    "a sign": ("+" + LINES, 1),
    "grouped digits": (LINES + "\n1.000.051", 4),
    "digits grouped by commas": (LINES + '\n"1,000,051"', 4),
    "digits grouped by blanks": (LINES + "\n1 000 051", 4),
    "several ids on a line": (LINES.replace("\n", " "), 1),
    "several ids between commas": (LINES + "\n1000051,1000062", 4),
    "several ids between tabs": (LINES + "\n1000051\t1000062", 4),
    "a remark": (LINES + "\n1000051 withdrew in May", 4),
    "two columns without a header": ("2020,1000017\n2020,1000028", 1),
    "two columns under unknown names": ("date,participant\n2020,1000017", 1),
    "two columns of ids": ("eid,subject\n1000017,1", 1),
    "no id in a row": ("eid,date\n1000017,2020\n,1000028", 3),
    "more cells than the header": ("date,eid\n2020,1000017\nMay 1, 2020,1000028", 3),
    "an open quotation": (LINES.replace("1000028", '"1000028'), 2),
    "text after a quotation": (LINES.replace("1000028", '"10000"28'), 2),
    "a byte order mark in the middle": (LINES.replace("1000028", "\ufeff1000028"), 2),
    "an invisible blank": (LINES.replace("28", "28\u200b"), 2),
    "a blank that does not break": (LINES.replace("28", "28\u00a0x"), 2),
    "UTF-16 without a mark": ("\0".join(LINES), 1),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_list_is_read_however_it_was_saved(tmp_path, kind):
    (tmp_path / "w.csv").write_bytes(HARMLESS[kind].encode())
    assert read_list(tmp_path / "w.csv") == set(IDS)


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_cell_that_may_hold_an_id_is_never_ignored(tmp_path, kind):
    """It is refused by file and line, in a message without any id."""
    text, line = HARMFUL[kind]
    (tmp_path / "w.csv").write_bytes(text.encode())
    with pytest.raises(CohortError, match=rf"w.csv\b.*\bline {line}: ") as error:
        read_list(tmp_path / "w.csv")
    message = str(error.value).replace(str(tmp_path), "")
    assert message.isprintable() and "10000" not in message and "1 000" not in message and "1.000" not in message


def test_ids_of_other_cohorts_are_not_taken_for_numbers(tmp_path):
    ids = {"patient001", "A0S9V9", "SC-HF-I-1", "1_2", "1.3.6.1.4.1", "007", "p 1"}
    (tmp_path / "w.csv").write_text("\n".join(ids))
    assert read_list(tmp_path / "w.csv") == ids


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no id"),
        (b"eid\n\n", "holds no id"),
        (b"1234567\n1.23457E+06\n", "line 2: a number with a point"),
        (b"1234567.0\n", "line 1: a number with a point"),
        ("1234567\né\n".encode("latin-1"), "cannot be read"),
    ],
)
def test_bad_lists_are_refused(tmp_path, data, message):
    (tmp_path / "w.csv").write_bytes(data)
    with pytest.raises(CohortError, match=message) as error:
        read_list(tmp_path / "w.csv")
    assert "1234567" not in str(error.value).replace(str(tmp_path), "")
    with pytest.raises(CohortError, match="cannot be read"):
        read_list(tmp_path / "absent.csv")
