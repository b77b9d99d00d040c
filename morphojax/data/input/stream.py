"""Streams of batches, read with grain.

A batch is a pure function of (seed, step): the step gives the numbers of the examples of the
global batch, in an order drawn for each epoch; a process takes its rows of them and reads their
arrays. So a batch does not depend on earlier batches, or on the number of processes and workers,
and the state of a stream is its next step.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import grain
import numpy as np
from absl import flags

from morphojax.data.errors import NamedError

Batch = dict[str, np.ndarray]


class StreamError(NamedError):
    """A stream that cannot be built or resumed. The message says why."""


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """How examples become batches. Raises StreamError for impossible numbers.

    batch_size: of all processes together.
    train:      True: endless batches, in a new order each epoch. False: one pass in order.
    process_index, process_count: select the rows of a batch that this process reads.
    workers:    processes that read; 0: a thread reads. The batches are the same. Worker processes
                need parsed absl flags, import `__main__` again (a script needs its `if __name__ ==
                "__main__"`), and end with `close()`.
    prefetch:   batches read ahead, per worker.
    """

    batch_size: int
    seed: int = 0
    train: bool = True
    process_index: int = 0
    process_count: int = 1
    workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise StreamError(
                f"batch_size={self.batch_size} is not a positive multiple of the {self.process_count} processes"
            )
        if not 0 <= self.process_index < self.process_count:
            raise StreamError(f"process_index={self.process_index} is not below process_count={self.process_count}")
        if not 0 <= self.seed < 2**32:
            raise StreamError(f"seed={self.seed} is not in [0, 2**32)")
        if self.workers < 0 or self.prefetch < 1:
            raise StreamError(f"workers={self.workers} must be 0 or more and prefetch={self.prefetch} 1 or more")


class Stream(Iterator[Batch]):
    """Batches, of the rows of this process.

    In training it is endless, has a new order each epoch, and drops the remainder of an epoch. In
    evaluation it is one pass in order, the last batch is padded with rows of valid=False, and
    `iter()` starts another pass.

    examples, steps_per_epoch: the number of examples and of batches in an epoch.
    """

    def __init__(self, read: Callable[[int, np.ndarray, np.ndarray], Batch], examples: int, spec: StreamSpec):
        if spec.train and examples < spec.batch_size:
            raise StreamError(f"batch_size={spec.batch_size} exceeds the {examples} training examples: lower it")
        batch_size, train = spec.batch_size, spec.train
        self.examples, self.batch_size, self.train = examples, batch_size, train
        self.steps_per_epoch = examples // batch_size if train else -(-examples // batch_size)
        self._workers, self._prefetch = spec.workers, spec.prefetch
        self._identity = {"examples": examples, "batch_size": batch_size, "seed": spec.seed}
        self._next = 0
        self._iterator: Any = None

        steps = grain.MapDataset.range(self.steps_per_epoch)
        local = batch_size // spec.process_count
        rows = np.arange(spec.process_index * local, (spec.process_index + 1) * local)
        order = _Order(examples, batch_size, spec.seed if train else None)
        self._batches = (steps.repeat() if train else steps).map_with_index(
            functools.partial(_batch, read, order, rows)
        )

    def __iter__(self) -> Self:
        if not self.train:
            self._seek(0)
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._start()
        batch = next(self._iterator)
        self._next += 1
        if self._workers:  # grain returns views of shared memory and unmaps it later; callers may keep a batch
            batch = {key: np.array(array, subok=False) for key, array in batch.items()}
        return batch

    def at(self, step: int) -> Batch:
        """The batch of a step, without moving the stream."""
        batch: Any = self._batches[step]
        return batch

    def get_state(self) -> dict[str, int]:
        """The position in the stream, JSON-able. `set_state` continues with the next batch."""
        return {"next_batch": self._next, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a state of `get_state`.

        Raises StreamError for the state of a stream with another number of examples, batch size or
        seed.
        """
        saved = {k: v for k, v in state.items() if k != "next_batch"}
        if saved != self._identity or state["next_batch"] < 0:
            raise StreamError(f"the saved position {state} is not one of this stream, which has {self._identity}")
        self._seek(state["next_batch"])

    def close(self) -> None:
        """Stops the reading thread or processes. A later `next` starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _seek(self, step: int) -> None:
        self.close()
        self._next = step

    def _start(self) -> Any:
        # grain's defaults would keep 500 batches in memory, read by 16 threads that share one
        # interpreter.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch)
        batches = self._batches[self._next :].to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():
                raise StreamError(
                    "reading in worker processes needs absl flags parsed: start with absl.app.run, or workers=0"
                )
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(self._workers, self._prefetch))
        return iter(batches)


class Joined(Iterator[dict[str, Any]]):
    """Several training streams as one.

    A batch is that of the first stream, with the batches of the others under their names:
    {"image": ..., "label": ..., "subject": ..., "unlabelled": {"image": ..., "subject": ...}}.

    Each stream keeps its own order, epochs and batch size; `examples`, `batch_size` and
    `steps_per_epoch` are those of the first stream, whose name is not used.

    Raises StreamError without streams, for a stream of evaluation (which would end early), and
    where a name is also a key of the first stream's batch.
    """

    def __init__(self, streams: Mapping[str, Stream]):
        passes = [name for name, stream in streams.items() if not stream.train]
        if not streams or passes:
            raise StreamError(
                f"only streams of training can be joined, at least one; got {list(streams)}, not {passes}"
            )
        self._streams = dict(streams)
        self._first = next(iter(self._streams.values()))
        self.examples = self._first.examples
        self.batch_size = self._first.batch_size
        self.steps_per_epoch = self._first.steps_per_epoch

    def __next__(self) -> dict[str, Any]:
        (_, first), *rest = ((name, next(stream)) for name, stream in self._streams.items())
        batch: dict[str, Any] = dict(first)
        for name, joined in rest:
            if name in batch:
                raise StreamError(f"a stream cannot be named {name!r}, which is a key of the first stream's batch")
            batch[name] = joined
        return batch

    def get_state(self) -> dict[str, dict[str, int]]:
        """As `Stream.get_state`, by the name of the stream."""
        return {name: stream.get_state() for name, stream in self._streams.items()}

    def set_state(self, state: Mapping[str, dict[str, int]]) -> None:
        """Continues from a state of `get_state`. Raises StreamError for that of other streams."""
        if set(state) != set(self._streams):
            raise StreamError(f"the saved position is that of the streams {list(state)}, not {list(self._streams)}")
        for name, stream in self._streams.items():
            stream.set_state(state[name])

    def close(self) -> None:
        """As `Stream.close`, every stream."""
        for stream in self._streams.values():
            stream.close()


@dataclasses.dataclass(frozen=True)
class _Order:
    """The numbers of the examples of the global batch of a step.

    Every process computes all of them, so the order of the rows does not depend on the number of
    processes.
    """

    examples: int
    batch_size: int
    seed: int | None  # None: in order, once

    def __call__(self, step: int) -> np.ndarray:
        if self.seed is None:
            return np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epoch, step = divmod(step, self.examples // self.batch_size)
        return _permutation(self.examples, self.seed, epoch)[step * self.batch_size : (step + 1) * self.batch_size]


@functools.lru_cache(maxsize=8)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    # grain's own shuffle takes some 2 ms per example of a small dataset: it walks a block cipher
    # until it lands in range.
    return generator("order", seed, epoch).permutation(examples)


def generator(name: str, *key: int) -> np.random.Generator:
    """The name is part of the key because NumPy takes (1, 2) and (1, 2, 0) for the same."""
    return np.random.default_rng((*name.encode(), *key))


def _batch(read: Callable[..., Batch], order: _Order, rows: np.ndarray, step: int, _: Any) -> Batch:
    """The rows of one process.

    Numbers beyond the last example are padding: example 0 with valid=False.
    """
    numbers = order(step)[rows]
    valid = numbers < order.examples
    return read(step, rows, np.where(valid, numbers, 0)) | {"valid": valid}
