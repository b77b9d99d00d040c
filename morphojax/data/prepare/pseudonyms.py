"""Pseudonyms: names for subjects that identify nobody without a secret key.

A pseudonym is the first 16 hex digits of HMAC-SHA256(key, id): the same id and key give the same
pseudonym in every cohort. The key is 32 random bytes, stored as hex in a file that stays with the
raw data. Without it nobody can identify a subject, and nobody can apply a withdrawal.
"""

import dataclasses
import errno
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from morphojax.data.errors import NamedError
from morphojax.data.store.records import write_once

KEY_FILE = "morphojax.key"
KEY_BYTES = 32
DIGITS = 16


class KeyFileError(NamedError):
    """A key that cannot be used. The message names the file and what to do, never the key."""


@dataclasses.dataclass(frozen=True)
class Pseudonyms:
    """The pseudonyms of one key: `pseudonyms(id)`."""

    key: bytes = dataclasses.field(repr=False)

    def __call__(self, subject: str) -> str:
        return hmac.new(self.key, subject.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    @property
    def check(self) -> str:
        """A public fingerprint of the key: it distinguishes keys and reveals nothing else."""
        return hashlib.sha256(b"morphojax key check" + self.key).hexdigest()[:DIGITS]

    def check_distinct(self, subjects: Iterable[str]) -> None:
        """Raises KeyFileError where two of the ids have the same pseudonym."""
        ids = set(subjects)
        if len({self(i) for i in ids}) < len(ids):
            raise KeyFileError("two subjects have the same pseudonym under this key; make another with --key=FILE")

    def hide(self, subject: str, text: str) -> str:
        """The text with every occurrence of the id replaced by its pseudonym.

        An occurrence inside a longer number is not the id, and stays.
        """
        return re.sub(rf"(?<!\d){re.escape(subject)}(?!\d)", self(subject), text)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key of a file. Raises KeyFileError where it is absent or holds anything else."""
        try:
            text = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise KeyFileError(f"{path}: no such key; name the file that prepare made beside the raw data") from None
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{path}: cannot be read as a key ({type(error).__name__})") from error
        if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
            raise KeyFileError(
                f"{path}: holds no key of {2 * KEY_BYTES} hex digits; copy it back, or name another file"
            )
        return cls(bytes.fromhex(text))

    @classmethod
    def make(cls, path: Path) -> Self:
        """Writes a new key to a file that only its owner may read.

        Raises KeyFileError where the file exists, as a key is never replaced, or cannot be written.
        """
        key = secrets.token_bytes(KEY_BYTES)
        try:
            if not write_once(path, f"{key.hex()}\n".encode(), mode=0o600):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        except OSError as error:
            raise KeyFileError(
                f"{path}: the key cannot be written ({error.strerror or error}); choose another file with --key=FILE"
            ) from error
        return cls(key)

    @classmethod
    def read_or_make(cls, path: Path) -> tuple[Self, bool]:
        """The key of a file, made where the file is absent, and whether this call made it.

        Of processes that call it at the same time, one makes the key. Raises KeyFileError.
        """
        if not path.exists():
            try:
                return cls.make(path), True
            except KeyFileError:
                if not path.exists():
                    raise
        return cls.read(path), False
