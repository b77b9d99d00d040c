"""What a process and those that it started use, read from /proc."""

import os
from pathlib import Path

PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


def tree(root: int) -> dict[int, tuple[float, int]]:
    """By process id, of `root` and all that descend from it: seconds of processor time, and bytes that are resident now (pages that
    processes share count for each). Nothing where `root` has ended."""
    found, children = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        seconds = (int(after_name[11]) + int(after_name[12])) / TICKS
        found[int(folder.name)] = seconds, int(after_name[21]) * PAGE
        children.setdefault(int(after_name[1]), []).append(int(folder.name))
    descend, inside = [root], {}
    while descend:
        process = descend.pop()
        if process in found:
            inside[process] = found[process]
            descend += children.get(process, [])
    return inside
