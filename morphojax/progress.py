"""Progress of long work: a bar in a terminal, elsewhere a line now and then."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 30.0  # between two lines
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s{postfix}; {remaining} left"


class _Lines:
    """A file in which every status of a bar is a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(
    iterable: Iterable[Any] | None = None, *, desc: str, unit: str, total: int | None = None, initial: int = 0,
    show: bool = True,
) -> tqdm:  # fmt: skip
    """A bar on standard error; without a terminal a line at the start, at the end, and every
    SECONDS between. unit: in the singular.
    """
    common: dict[str, Any] = {"desc": desc, "unit": unit, "total": total, "initial": initial, "disable": not show}
    if sys.stderr.isatty():
        return tqdm(iterable, dynamic_ncols=True, **common)
    lines: Any = _Lines()
    return tqdm(iterable, file=lines, mininterval=SECONDS, maxinterval=SECONDS, miniters=1, bar_format=_LINE, **common)


def say(text: str) -> None:
    """Prints a line without breaking a bar."""
    tqdm.write(text)
