"""Runs a function on every subject of a cohort, in several processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from morphojax import interrupts
from morphojax.data.prepare.checks import PrepareError

_PRELOAD = "morphojax.data.prepare.partials"  # imported once by the server that forks the workers
_T = TypeVar("_T")


def map_subjects(
    function: Callable[[str], _T], subjects: Sequence[str], workers: int | None
) -> Iterator[tuple[str, _T]]:
    """(subject, function(subject)) for every subject, in the order in which they finish.

    workers: processes; default one per CPU, fewer where there are few subjects. One worker means
    this process. `function` must pickle. Raises PrepareError where a process dies.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(subjects) // 4))
    _keep_memory()
    if workers == 1:
        yield from ((subject, function(subject)) for subject in subjects)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    queue, running = iter(subjects), {}
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        try:
            while True:
                while len(running) < 4 * workers and (subject := next(queue, None)) is not None:
                    future: Future[_T] = pool.submit(function, subject)
                    running[future] = subject
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise PrepareError("a worker process died (out of memory?); run again, with fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    interrupts.ignore()
    _keep_memory()
    _die_with_parent()


def _keep_memory() -> None:
    """Makes glibc keep freed memory of up to 32 MB per block, by freeing one such block.

    Otherwise the memory of every volume returns to the kernel, which zeroes it again for the next
    one: 10 % of the time of `prepare`.
    """
    np.empty(2**25 - 2**16, np.uint8)


def _die_with_parent() -> None:
    """Ends this worker when `prepare` is killed; it would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
