"""Digests of the files of a checkpoint: a flipped bit is found before it becomes a weight."""

import hashlib
import json
from pathlib import Path

from morphojax.data import json_text

NAME = "digests.json"


def write(folder: Path) -> None:
    """Writes the digest of every file below a folder into it; the file is complete or absent."""
    part = folder / f"{NAME}.part"
    part.write_text(json.dumps(_of(folder), indent=1) + "\n")
    part.replace(folder / NAME)


def damage(folder: Path) -> str | None:
    """What differs from the digests, in words; None for a whole folder.

    A folder without digests counts as whole: a kill can come between a checkpoint and its digests.
    """
    path = folder / NAME
    try:
        expected = json_text.parse(path.read_bytes(), {str: str})
        if not expected:
            raise ValueError("no digests")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{NAME} cannot be read ({error})"
    try:
        found = _of(folder)
    except OSError as error:
        return f"{error.filename}: cannot be read ({error.strerror})"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is absent"
        if name not in expected:
            return f"{name} is not one of its files"
        if found[name] != expected[name]:
            return f"{name} has changed"
    return None


def _of(folder: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of every file except the digests themselves."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(NAME)):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
