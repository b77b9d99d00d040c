"""What the commands of a study print."""

from collections import Counter
from collections.abc import Mapping, Sequence

from analysis.study.jobs import Job
from analysis.study.spec import ARM, Study
from analysis.study.state import FAILED, UNUSABLE, State


def duration(seconds: float) -> str:
    """As `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def plan_table(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> str:
    """The cells of every arm by what is done of them, and a line for every one that failed or is
    unusable.
    """
    lines = [study.question, f"folder: {study.folder}", ""]
    groups = {"pretraining": [job for job in jobs if job.cell is None]}
    for job in jobs:
        if job.cell is not None:
            groups.setdefault(job.cell.values[ARM], []).append(job)
    width = max(map(len, groups))
    for name, members in groups.items():
        counts = Counter(states[job.name].status for job in members)
        lines.append(f"{name:{width}}  {len(members):3}  {', '.join(f'{n} {word}' for word, n in counts.items())}")
    for job in jobs:
        if states[job.name].status in (FAILED, UNUSABLE):
            lines.append(f"{job.name}: {states[job.name].why}")
    return "\n".join(lines)
