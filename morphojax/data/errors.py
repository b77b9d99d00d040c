"""The base class of errors that a user can mend: their text is one printable line."""

MOST_CHARACTERS = 1000  # of an error: it must fit a terminal
_END_CHARACTERS = 300  # of them from its end, which says what to do


class NamedError(ValueError):
    """An error whose message names a file or setting and says what to do.

    Messages quote file names, cells and other libraries' errors, so `str` escapes line breaks,
    control characters and undecodable bytes, and leaves out the middle of a long text.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """The text as one printable line of at most MOST_CHARACTERS."""
    line = text if text.isprintable() else " ".join(part for part in map(str.strip, text.splitlines()) if part)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= MOST_CHARACTERS:
        return line
    left_out = " [...] "
    return line[: MOST_CHARACTERS - _END_CHARACTERS - len(left_out)] + left_out + line[-_END_CHARACTERS:]
