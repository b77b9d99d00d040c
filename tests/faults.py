"""`python -m morphojax.main` with the encoder of two blocks, and with a fault in this process.

    FAULT=disk_full FAULT_STEP=10 python -m tests.faults --config=...

FAULT, when the checkpoint of FAULT_STEP is saved:
    disk_full  no file of this process can grow from then on
    slow       the save takes FAULT_SECONDS more
    raise      an unexpected error after it
    kill, stop, terminate   SIGKILL, SIGSTOP (a machine that is silent) or SIGTERM after it
    kill_in_step  SIGKILL while the device computes the next step
"""

import os
import resource
import runpy
import signal
import time
from typing import Any

import tests.tasks.tiny  # noqa: F401  registers the encoder
from morphojax.train import loop
from morphojax.train.checkpoint import Checkpoints

FAULT, STEP = os.environ.get("FAULT"), int(os.environ.get("FAULT_STEP", "0"))
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM}
save, train = Checkpoints.save, loop._Session.train


def save_with_fault(self: Checkpoints, step: int, *rest: Any) -> None:
    if step == STEP and FAULT == "disk_full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if step == STEP and FAULT == "slow":
        time.sleep(float(os.environ["FAULT_SECONDS"]))
    save(self, step, *rest)
    if step == STEP and FAULT == "raise":
        raise AssertionError("a fault of this process")
    if step == STEP and FAULT in SIGNALS:
        os.kill(os.getpid(), SIGNALS[FAULT])


def train_with_fault(self: Any, step: int, *rest: Any) -> Any:
    result = train(self, step, *rest)  # returns before the step is computed
    if step == STEP and FAULT == "kill_in_step":
        os.kill(os.getpid(), signal.SIGKILL)
    return result


if __name__ == "__main__":
    Checkpoints.save = save_with_fault  # pyrefly: ignore
    loop._Session.train = train_with_fault  # pyrefly: ignore
    runpy.run_module("morphojax.main", run_name="__main__")
