"""The cost of reading: train steps fed from records, against steps fed one resident batch.

    python -m benchmarks.pipeline                     # segmentation, 16 slices, ResNet-18
    python -m benchmarks.pipeline --task=pretrain     # 24 subjects x 6 slices
    python -m benchmarks.pipeline --task=pretrain --subjects=300 --rounds=0     # reading alone

Reading alone: writes a dataset of smooth images with noise to a temporary folder, and reads it for
some epochs. Prints slices per second by the clock, and per second of processor time of this process
and its reading processes (the speed of one core). Epochs alternate between warm (files in the page
cache) and cold (files dropped from it). The bytes read from the disk are printed: none if the
folder lies in memory. Each epoch starts with files to open and nothing prefetched; reading
processes are counted from their first batch on. Target: at least 5,000 slices/s per core, warm and
cold.

The train step: each round times both ways of feeding in turn. The order is swapped every round, so
that other programs disturb both alike. The epoch starts cold. Target: at most 1.05 times the time
with the resident batch.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import app, flags
from scipy import ndimage

from benchmarks.processes import tree
from configs import pretrain_sax, segment_sax
from morphojax.data.geometry import Grid
from morphojax.data.store.dataset import Dataset, Manifest
from morphojax.data.store.records import ShardWriter, encode
from morphojax.data.tables.schema import Column, Schema
from morphojax.tasks.pretrain import build as pretrain
from morphojax.tasks.segment import build as segment
from morphojax.train import devices

TASK = flags.DEFINE_enum("task", "segment", ["segment", "pretrain"], "the task whose train step is fed")
SUBJECTS = flags.DEFINE_integer("subjects", 24, "subjects, of 2 frames of 10 slices each")
SIZE = flags.DEFINE_integer("size", 128, "pixels per side")
ROUNDS = flags.DEFINE_integer("rounds", 3, "paired timings of the train step")
EPOCHS = flags.DEFINE_integer("epochs", 5, "epochs of reading alone, warm and cold each")
WORKERS = flags.DEFINE_integer("workers", 0, "reading processes; 0: a thread")
SLICES = 10


def make_dataset(root: Path, subjects: int, size: int) -> Dataset:
    random = np.random.default_rng(0)
    coordinate = np.hypot(*np.mgrid[:size, :size] - size / 2)
    label = np.select([coordinate < size / 10, coordinate < size / 6], [1, 2], 0).astype(np.uint8)
    stacks = []
    writer = ShardWriter(root, "sax/slices")
    for subject in range(subjects):
        for phase in ("ED", "ES"):
            stacks.append((subject, phase, SLICES * len(stacks), SLICES, "lv_cavity lv_myocardium rv_cavity", True))
            for _ in range(SLICES):
                image = 90 + 400 * ndimage.gaussian_filter(random.normal(size=(size, size)), 3)
                image = np.clip(image + random.normal(size=image.shape) * 8, 0, 255).astype(np.uint8)
                writer.write(encode({"image": image, "label": label}))
    shards = {"sax": writer.close()}
    schema = Schema(tuple(Column(f"column{i}", "continuous", "demographic") for i in range(30)))
    structures = {"sax": ("lv_cavity", "lv_myocardium", "rv_cavity")}
    manifest = Manifest("benchmark", Grid(1.5, size), (1.0, 99.0), ("sax",), structures, schema, {}, {}, (), shards, {})
    names = tuple(f"subject{i}" for i in range(subjects))
    table = pd.DataFrame(random.normal(size=(subjects, 30)), columns=list(schema.names))
    stack_table = pd.DataFrame(stacks, columns=["subject", "phase", "first", "slices", "structures", "labelled"])
    return Dataset(root, manifest, names, np.full(subjects, "train"), table, {"sax": stack_table})


def build(dataset: Dataset) -> Any:
    config = (segment_sax if TASK.value == "segment" else pretrain_sax).get_config()
    config.data.workers = WORKERS.value
    config.data.fraction = 1.0
    config.eval_every = 0
    config.steps, config.epochs = 1000, 0.0
    if TASK.value == "segment":
        config.batch_size = 16
        return segment.build(config, dataset)[0]
    config.batch_size, config.input.slices = 24, 6
    return pretrain.build(config, dataset)[0]


def set_cache(dataset: Dataset, warm: bool) -> None:
    """Brings the dataset's shards into the page cache, or drops them from it."""
    for shard in dataset.manifest.slices["sax"]:
        with (dataset.root / shard.path).open("rb") as file:
            if warm:
                file.read()
            else:
                os.fsync(file.fileno())  # the kernel does not drop pages that it has not written yet
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_epoch(stream: Any, steps: int) -> tuple[float, float, float]:
    """Slices per second by the clock, per second of processor time, and bytes read from the disk.

    Batches that are read ahead at the end count as time only.
    """

    def used() -> np.ndarray:
        readers = [process for process in tree(os.getpid()) if process != os.getpid()]
        seconds = time.process_time() + sum(tree(process)[process][0] for process in readers)
        disk = sum(
            int(Path(f"/proc/{p}/io").read_text().split("read_bytes:")[1].split()[0]) for p in (os.getpid(), *readers)
        )
        return np.array([time.perf_counter(), seconds, disk])

    stream.close()
    start, slices = used(), 0
    for step in range(steps + bool(WORKERS.value)):
        batch = next(stream)
        if WORKERS.value and not step:
            start = used()  # do not count the start of the processes
        else:
            slices += int(batch.get("slice_mask", batch["valid"]).sum())
    clock, seconds, disk = used() - start
    return slices / clock, slices / seconds, disk


def time_reading(dataset: Dataset, stream: Any, steps: int) -> None:
    """Reads epochs, warm and cold in turn, and prints the medians of their speeds."""
    speeds = {"warm": [], "cold": []}
    for epoch in range(2 * EPOCHS.value + 1):
        name = ("cold", "warm")[epoch % 2]
        set_cache(dataset, name == "warm")
        speed = read_epoch(stream, steps)
        if epoch:  # the first epoch imports what it needs
            speeds[name].append(speed)
    for name, measured in speeds.items():
        clock, core, disk = (statistics.median(values) for values in zip(*measured, strict=True))
        least = min(values[1] for values in measured)
        print(
            f"reading alone, {name}: {clock:.0f} slices/s, {core:.0f} per core (least {least:.0f}), "
            f"{disk / 1e6:.1f} MB from the disk"
        )


def time_steps(task: Any, steps: int) -> None:
    """Times train steps fed from records and fed a resident batch, and prints their ratios."""
    stream, mesh = task.train_batches, devices.make_mesh()
    replicated = devices.replicated(mesh)
    constants = jax.device_put(task.constants, replicated)
    train_step = jax.jit(task.stages[0][1], donate_argnums=0, out_shardings=replicated)
    state = jax.jit(task.init, out_shardings=replicated)(task.pretrained)
    resident = devices.put_batch(next(stream), mesh)

    def run(batches: Iterable[Any]) -> float:
        """Seconds per step."""
        nonlocal state
        start = time.perf_counter()
        for batch in batches:
            state, _ = train_step(state, constants, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / steps

    def records() -> Iterable[Any]:
        return (devices.put_batch(next(stream), mesh) for _ in range(steps))

    run([resident] * 2)
    ratios = []
    for number in range(ROUNDS.value):
        stream.close()
        if number % 2:
            from_records, from_memory = run(records()), run([resident] * steps)
        else:
            from_memory, from_records = run([resident] * steps), run(records())
        ratios.append(from_records / from_memory)
        times = f"resident {1000 * from_memory:.1f}, from records {1000 * from_records:.1f} ms/step"
        print(f"round {number + 1}: {times}, ratio {ratios[-1]:.3f}")
    print(f"median ratio, records against resident: {np.median(ratios):.3f}")


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), SUBJECTS.value, SIZE.value)
        task = build(dataset)
        stream = task.train_batches
        steps = max(stream.steps_per_epoch, 2)
        print(f"{jax.devices()[0].device_kind}, {TASK.value}: batches of {stream.batch_size}, epochs of {steps} steps")
        try:
            time_reading(dataset, stream, steps)
            if ROUNDS.value:
                time_steps(task, steps)
        finally:
            stream.close()  # or its reading thread or processes would keep the program from ending


if __name__ == "__main__":
    app.run(main)
