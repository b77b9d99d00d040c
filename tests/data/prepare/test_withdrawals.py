"""Lists of withdrawals."""

import pytest

from morphojax.data.prepare.withdrawals import read_list
from morphojax.data.sources import CohortError


def test_lists_are_read_in_several_formats(tmp_path):
    (tmp_path / "w.csv").write_bytes(b'\xef\xbb\xbf"eid",date\r\n1234567,2020\r\n\r\n 7654321 ;x\r\n"2345678"\r\n')
    assert read_list(tmp_path / "w.csv") == {"1234567", "7654321", "2345678"}


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
