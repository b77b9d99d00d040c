"""Runs the commands of a study in this process: for studies so small that starting a process would
take longer than its work.
"""

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path

from analysis.study import configs
from morphojax import evaluate
from morphojax.tasks import experiment
from morphojax.train.processes import COMPLETE, FAILED, REFUSED, STOPPED


class Inline:
    """Stands in for `worker.Running`. A signal ends the whole program."""

    stopped = False

    def call(self, command: Sequence[str], log: Path) -> tuple[int, str]:
        """Exit code and last line, as of a process that runs the module."""
        module, *flags = command
        with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                return (_train(flags) if module == "morphojax.main" else evaluate.main(flags)), ""
            except experiment.EXPECTED as error:
                return REFUSED, str(error)
            except Exception as error:
                traceback.print_exc()
                return FAILED, str(error)


def _train(flags: Sequence[str]) -> int:
    first, *others = flags
    config = configs.load(first.removeprefix("--config="))
    for flag in others:
        configs.override(config, configs.parse(flag), flag)
    return COMPLETE if experiment.run(config) else STOPPED
