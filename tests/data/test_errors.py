"""Errors that a user can mend are one printable line, whatever they quote."""

import pytest

from morphojax.data.errors import MOST_CHARACTERS, NamedError
from morphojax.data.prepare.checks import describe_error


@pytest.mark.parametrize("quoted", ["a\nb", "a\r\n\n - b", "a\x1b[31mb", "a\0b", "\ud800", "\ufeffa", "a\u2028b"])
def test_an_error_is_one_printable_line(quoted):
    for error in (NamedError(f"x.csv: {quoted}; save it again"), ValueError(f"x.csv: {quoted}; save it again")):
        text = describe_error(error)
        assert text.isprintable() and text.encode() and text.startswith("x.csv: ") and text.endswith("; save it again")
    assert str(NamedError("x.csv: a\n - b")) == "x.csv: a - b" and str(NamedError("é: x  y")) == "é: x  y"


def test_a_long_error_keeps_the_file_and_the_advice():
    text = str(NamedError(f"x.csv: {'9' * 5000}; save it again"))
    assert len(text) <= MOST_CHARACTERS and text.startswith("x.csv: 99") and text.endswith("99; save it again")
    nested = str(NamedError(f"y.csv: {NamedError(text)}"))
    assert len(nested) <= MOST_CHARACTERS and nested.startswith("y.csv: x.csv: 99")
