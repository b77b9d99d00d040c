"""One subject's files -> its records, and the processes that do so for a whole cohort.

A partial result appears whole or not at all, so that a killed run continues where it stopped.
"""

import dataclasses
import functools
import hashlib
import itertools
import multiprocessing
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data.geometry import Grid, Placement, normalise, place, to_grid, to_native
from morphojax.data.prepare.measured import Measured
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.base import CohortError, Frame, Source, View
from morphojax.data.store.dataset import encode_native
from morphojax.data.store.records import decode, encode, write_atomically

CUT_WARNING = 0.02
_T = TypeVar("_T")


class PrepareError(ValueError):
    """A cohort that cannot be prepared as asked. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker process needs to know to prepare any one subject. What it writes and says names a subject by `name` alone."""

    source: Source
    planes: tuple[str, ...]
    grid: Grid
    percentiles: tuple[float, float]
    folder: Path
    pseudonym: Pseudonyms | None = None
    measured: Measured | None = None
    stamp: bytes = b""  # digest of all settings that partial results must share to be assembled

    def name(self, subject: str) -> str:
        return self.pseudonym(subject) if self.pseudonym else subject

    def settings(self) -> dict[str, Any]:
        return {
            "planes": list(self.planes),
            "frames": self.source.frames,
            "grid": self.grid.to_json(),
            "percentiles": list(self.percentiles),
            **({"pseudonyms": self.pseudonym.check} if self.pseudonym else {}),
            **({"measured": [c.name for c in self.measured.columns]} if self.measured else {}),
        }

    def path(self, subject: str) -> Path:
        """Ids may hold characters that no file name can."""
        return self.folder / f"{hashlib.sha256(self.name(subject).encode()).hexdigest()[:32]}.msgpack"

    def run(self, subject: str) -> str | None:
        """Writes the subject's partial result; returns why not where its files are unusable. Disk errors are raised."""
        record = self._record(subject)
        if isinstance(record, str):
            return record
        body = self.stamp + encode(record)
        write_atomically(self.path(subject), hashlib.sha256(body).digest() + body, durable=False)
        return None

    def read(self, subject: str) -> dict[str, Any] | None:
        """What `run` wrote; None where there is nothing, or what is no longer that, which is removed: partial results are not forced to
        disk, and are copied between machines. Raises PrepareError for one that was made with other settings."""
        path = self.path(subject)
        try:
            data = memoryview(path.read_bytes())
        except FileNotFoundError:
            return None
        digest, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != digest:
            path.unlink(missing_ok=True)
            return None
        if body[: len(self.stamp)] != self.stamp:
            raise PrepareError(f"{path} was made with other settings; remove it, or {self.folder}, or repeat them")
        return decode(bytes(body[len(self.stamp) :]))

    def measure(self, subject: str) -> dict[str, Any] | str:
        """What `run` would add to the dataset, or why nothing; writes nothing. `planes`: [stacks, slices, labelled stacks] of each,
        `bytes`: about those on disk, `warnings`, `measured`: the columns."""
        record = self._record(subject)
        if isinstance(record, str):
            return record
        planes, size = {}, 0
        for plane, view in record["views"].items():
            stacks = view["stacks"]
            planes[plane] = [len(stacks), sum(s["slices"] for s in stacks), sum(bool(s["structures"]) for s in stacks)]
            # The level-1 zstd of the shards comes to much the same.
            size += sum(len(zlib.compress(data, 1)) for data in (*view["slices"], *view["native"]))
        return {"planes": planes, "bytes": size, "warnings": record["warnings"], "measured": list(record["measured"])}

    def _record(self, subject: str) -> dict[str, Any] | str:
        try:
            found = self.source.read(subject, self.planes)
            if not found.views:
                raise CohortError(f"no images of {', '.join(self.planes)}")
            views = {plane: self._view(view) for plane, view in found.views.items()}
            values = dict(self.measured.of(found.views)) if self.measured else {}
            # A label is looked at to warn of the crop, never to place it.
            cut = [p for p, v in views.items() if any(s["cut"] > CUT_WARNING * s["voxels"] for s in v["stacks"])]
        except (ValueError, OSError, MemoryError) as error:
            message = str(error) or repr(error)
            return self.pseudonym.hide(subject, message) if self.pseudonym else message
        warnings = [*found.warnings, *(f"{p}: the crop cuts off more than {CUT_WARNING:.0%} of a label" for p in cut)]
        return {"subject": self.name(subject), "warnings": warnings, "views": views, "measured": values}

    def _view(self, view: View) -> dict[str, Any]:
        slices, native, stacks = [], [], []
        for frame in itertools.chain(view.frames, view.cine):
            check_shown(view.plane, frame)
            placement = place(frame.image, frame.affine, self.grid)
            image = to_grid(normalise(frame.image, *self.percentiles), placement, order=1)
            stack = {
                "phase": frame.phase,
                "phase_from": frame.phase_from,
                "slices": len(image),
                "structures": " ".join(view.labelled) if frame.label is not None else "",
                "voxels": 0,
                "cut": 0,
            }
            if frame.label is None:
                label = np.zeros_like(image)
            else:
                label = to_grid(frame.label, placement, order=0)
                voxels, cut = measure_cut(frame.label, placement, self.grid.size)
                stack |= {"voxels": voxels, "cut": cut}
            slices += [encode({"image": i, "label": la}) for i, la in zip(image, label, strict=True)]
            native.append(encode(encode_native(frame.label, placement)))
            stacks.append(stack)
        return {"stacks": stacks, "slices": slices, "native": native}


def check_planes(planes: Sequence[str]) -> None:
    """Raises PrepareError unless each of one or more planes is known and named once."""
    unknown = [p for p in planes if p not in anatomy.PLANES]
    if unknown or not planes or len(set(planes)) != len(planes):
        raise PrepareError(f"planes {list(planes)}: name each once among {', '.join(anatomy.PLANES)}")


def check_shown(plane: str, frame: Frame) -> None:
    """Raises CohortError where the label of a frame holds a structure that its plane does not show."""
    shown = [anatomy.BACKGROUND, *(anatomy.LABEL_ID[s] for s in anatomy.PLANE_STRUCTURES[plane])]
    # Compared before anything is sorted, as nearly every label passes.
    if frame.label is not None and not functools.reduce(np.logical_or, (frame.label == i for i in shown)).all():
        names = ", ".join(anatomy.STRUCTURES[i - 1] for i in np.setdiff1d(frame.label, shown))
        raise CohortError(f"{plane} {frame.phase}: the label holds {names}, which this plane does not show")


def measure_cut(label: np.ndarray, placement: Placement, size: int) -> tuple[int, int]:
    """How many voxels of a native label [X, Y, Z] are drawn, and how many of them lie outside the crop of `size` pixels."""
    flat = dataclasses.replace(placement, shape=(*placement.shape[:2], 1))
    covered = to_native(np.ones((1, size, size), np.uint8), flat, order=0)[..., 0]
    drawn = label != anatomy.BACKGROUND
    return int(np.count_nonzero(drawn)), int(np.count_nonzero(drawn & (covered == 0)[..., None]))


def run_all(job: Job, ids: Sequence[str], workers: int | None, strict: bool, progress: bool) -> dict[str, str]:
    """Prepares the subjects that have no partial result yet; returns the failures by subject, or with `strict` raises
    the first as PrepareError."""
    failures: dict[str, str] = {}
    todo = [i for i in ids if job.read(i) is None]
    with tqdm(
        total=len(ids), initial=len(ids) - len(todo), desc="prepare", unit="subject", disable=not progress
    ) as bar:
        for subject, failure in results(job.run, todo, workers):
            bar.update()
            if failure is not None:
                failures[subject] = failure
                bar.set_postfix(failed=len(failures))
                if strict:
                    raise PrepareError(f"subject {job.name(subject)}: {failure}")
    return failures


def results(work: Callable[[str], _T], todo: Sequence[str], workers: int | None) -> Iterator[tuple[str, _T]]:
    """(subject, what `work` makes of it), in the order in which processes (default: one per CPU) finish. Raises PrepareError where one
    dies."""
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(todo) // 4))
    _keep_memory()
    if workers == 1:
        yield from ((i, work(i)) for i in todo)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    queue, running = iter(todo), {}
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        try:
            while True:
                while len(running) < 4 * workers and (subject := next(queue, None)) is not None:
                    future: Future[_T] = pool.submit(work, subject)
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
    _keep_memory()
    _die_with_parent()


def _keep_memory() -> None:
    """Frees, untouched, the largest block by which glibc learns what sizes come and go. A volume's memory then stays with the process;
    given back after each, and zeroed anew by the kernel, it costs a tenth of the time."""
    np.empty(2**25 - 2**16, np.uint8)


def _die_with_parent() -> None:
    """Workers of a killed `prepare` would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
