"""Several processes of one run: they join, and none waits for a process that is gone."""

import contextlib
import multiprocessing
import os
import sys
import time
from typing import NoReturn

import jax

HEARTBEAT_SECONDS = 20  # without a sign of life, after which JAX aborts the other processes; its default is 100
_LAST_WORDS_SECONDS = 5  # in which the others report their own errors, before process 0 leaves


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the processes of a run. Call it before any device is used.

    Arguments that are None come from the cluster, as JAX recognises it (SLURM, Open MPI, TPU pods).
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)


def is_loss_of_another(error: BaseException) -> bool:
    """Whether a collective failed because its other end is gone.

    JAX raises JaxRuntimeError or ValueError then, with the words of the library of the collectives.
    """
    return any(word in str(error) for word in ("Gloo", "NCCL", "coordination service")) and jax.process_count() > 1


def leave(code: int) -> NoReturn:
    """Ends this process at once, after an error.

    A plain exit would wait at JAX's shutdown barrier for the others, which wait for this process in
    a collective. Process 0 leaves last, because the others cannot live without it.
    """
    with contextlib.suppress(Exception):  # the error may be that there is no device
        if jax.process_index() == 0:
            time.sleep(_LAST_WORDS_SECONDS)
    for child in multiprocessing.active_children():  # the workers of the streams
        child.kill()
    with contextlib.suppress(OSError):  # the disk of a log file may be full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
