"""The command that the jobs of test_jobs run: it succeeds, or fails as its argument says."""

import os
import signal
import warnings


def main(argv: list[str]) -> int:
    print("running", os.environ["PYTHONWARNINGS"])
    warnings.warn("patient" + "001", stacklevel=1)
    if argv == ["raise"]:
        raise KeyError("patient" + "001")  # a traceback shows this line
    if argv == ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(argv == ["fail"])
