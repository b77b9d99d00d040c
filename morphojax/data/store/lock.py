"""One process at a time in a folder, on one machine or on several that share it."""

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from morphojax.data import json_text
from morphojax.data.errors import NamedError

_HOLDER = {"host": str, "process": int, "job?": str}
_BEAT_SECONDS = 20.0
STALE_SECONDS = 120.0  # a holder on another machine that was silent for so long is gone


class LockError(NamedError):
    """Another process is at work. The message names it and the lock."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path` for the body of a with statement.

    A lock is stale, and taken over, where its process on this machine is gone; on another machine
    where it was silent for STALE_SECONDS, or where it belongs to the same SLURM job, which was
    queued again. Raises LockError for any other lock, and OSError where the folder is unwritable.
    """
    file, certain = _open(path)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    try:
        _take(path, file, certain)
        try:
            beat.start()
            yield
        finally:
            stop.set()
            beat.join()
            path.unlink(missing_ok=True)
    finally:
        file.close()  # which frees it


def held(path: Path) -> bool:
    """Whether a process holds the lock, by the name in it: to look never takes it."""
    try:
        with path.open() as file:
            holder = _holder(file)
        own = _own()
        same = (holder.get("host"), holder.get("process")) == (own["host"], own["process"])
        return bool(holder) and (same or not _stale(path, holder, own))
    except FileNotFoundError:
        return False


def _open(path: Path) -> tuple[IO[str], bool]:
    """The lock file, held by the operating system, which frees it when the process ends.

    False where the file system has no such locks: then the holder's name and beat decide.
    """
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise _held(path, holder) from None
        except OSError:
            return file, False
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file, True
        file.close()  # the holder before removed it at this moment


def _take(path: Path, file: IO[str], certain: bool) -> None:
    """Writes this process into the lock. Raises LockError where it is held and not stale.

    certain: no process of this machine holds it.
    """
    holder, own = _holder(file), _own()
    here = holder.get("host") == own["host"]
    if holder and not (here and certain) and not _stale(path, holder, own):
        raise _held(path, holder)
    file.seek(0)
    file.truncate()
    json.dump(own, file)
    file.flush()


def _own() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid(), "job": os.environ.get("SLURM_JOB_ID", "")}


def _holder(file: IO[str]) -> dict[str, Any]:
    """Who holds it; {} where nobody does, or where a kill came before the name."""
    file.seek(0)
    try:
        return json_text.parse(file.read(), _HOLDER)
    except ValueError:
        return {}


def _stale(path: Path, holder: dict[str, Any], own: dict[str, Any]) -> bool:
    if holder.get("host") == own["host"]:
        return holder.get("process") == own["process"] or not _alive(holder.get("process"))
    return bool(own["job"] and holder.get("job") == own["job"]) or _silent_seconds(path) > STALE_SECONDS


def _alive(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, TypeError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _silent_seconds(path: Path) -> float:
    """Since the last beat, by the clock of the file system, which the machines share."""
    last = path.stat().st_mtime
    probe = path.with_name(f"{path.name}.{os.getpid()}")
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    return now - last


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _held(path: Path, holder: dict[str, Any]) -> LockError:
    who = (
        f"process {holder['process']} on {holder['host']}"
        if {"process", "host"} <= holder.keys()
        else "another process"
    )
    return LockError(f"{path.parent}: {who} is at work here; wait for it, or choose another folder (lock: {path})")
