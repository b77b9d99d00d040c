"""The folder that a command writes to, checked before the work."""

import tempfile
from pathlib import Path

from morphojax.data.errors import NamedError


class OutputError(NamedError):
    """A folder that cannot be written."""


def writable(folder: Path, flag: str = "--output") -> Path:
    """The folder, which need not exist yet. Raises OutputError where no file can be made in it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError as error:
        raise OutputError(f"{flag}={folder}: cannot be written ({error.strerror}); name another folder") from error
