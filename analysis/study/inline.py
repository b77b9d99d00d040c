"""Runs the commands of a study in this process: for studies so small that starting a process would
take longer than its work.
"""

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path

from morphojax import evaluate
from morphojax.exit_codes import COMPLETE, FAILED, REFUSED, STOPPED
from morphojax.tasks import config_files, experiment


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
    config = config_files.load(first.removeprefix("--config="))
    config_files.override_from_flags(config, others)
    return COMPLETE if experiment.run(config) else STOPPED
