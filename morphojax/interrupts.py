"""Ctrl-C: a command ends within seconds, also while a library computes and Python cannot react."""

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from morphojax.exit_codes import INTERRUPTED

GRACE_SECONDS = 2.0  # for Python's own KeyboardInterrupt to end the command
KEPT = "interrupted: files that were written are complete, others are absent"
_finishing: list[str] = []  # lines of `finishes`, the innermost last


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Ends the process where it has not reacted to Ctrl-C after GRACE_SECONDS, or at a second
    Ctrl-C. Outside of the main thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # the thread ends


@contextlib.contextmanager
def finishes(line: str) -> Iterator[None]:
    """Within, the first Ctrl-C prints the line, and the work ends by itself."""
    _finishing.append(line)
    try:
        yield
    finally:
        _finishing.remove(line)


def ignore() -> None:
    """In a worker process: its parent decides what Ctrl-C does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_children() -> None:
    """Kills worker processes, which would be waited for."""
    for child in multiprocessing.active_children():
        child.kill()


def _watch(reader: int) -> None:
    """Reads the numbers of signals as they come, until the other end is closed."""
    count = 0
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while numbers := signals.read(64):
            count += numbers.count(signal.SIGINT)
            if count == 1 and _finishing:
                print(_finishing[-1], file=sys.stderr, flush=True)
            elif count > 1 or (count == 1 and not select.select([reader], [], [], GRACE_SECONDS)[0]):
                _end()


def _end() -> NoReturn:
    end_children()
    print(KEPT, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)
