"""Processor time and memory of a process and its descendants, read from /proc."""

import os
from pathlib import Path

PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


def tree(root: int) -> dict[int, tuple[float, int]]:
    """(seconds of processor time, resident bytes) of `root` and its descendants, by process id.

    Memory that processes share counts for each of them. Empty where `root` has ended.
    """
    usage, children = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended in the meantime
            continue
        seconds = (int(after_name[11]) + int(after_name[12])) / TICKS
        usage[int(folder.name)] = seconds, int(after_name[21]) * PAGE
        children.setdefault(int(after_name[1]), []).append(int(folder.name))
    pending, below_root = [root], {}
    while pending:
        process = pending.pop()
        if process in usage:
            below_root[process] = usage[process]
            pending += children.get(process, [])
    return below_root
