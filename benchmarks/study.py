"""Time and memory to plan and to report a study of 504 finished cells.

    python -m benchmarks.study

The cells are written first, without training, with scores of 45 subjects and logs of 400 lines.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

from analysis.study import report, text
from tests.analysis.study import made


def timed(name: str, function: Callable[[], Any]) -> Any:
    clock = time.perf_counter()
    value = function()
    print(f"{name}: {time.perf_counter() - clock:.1f} s")
    return value


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        seeds = {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in range(56)}
        axes = made.config(folder).to_dict()["axes"] | {"seed": seeds}
        for job in made.study(folder, axes=axes)[1]:
            made.finish(job, subjects=45)
            made.log(job, lines=100, levels=10)
        study, planned = timed("plan", lambda: made.study(folder, axes=axes))
        states = timed("what is done", lambda: made.states(planned))
        timed("table", lambda: text.plan_table(study, planned, states))
        timed("report", lambda: report.write(study, planned, states))
    print(f"{len(study.cells)} cells, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
