"""The error of a study."""

from morphojax.data.errors import NamedError


class StudyError(NamedError):
    """A study that cannot be planned, run or reported as asked. The message says what to do."""
