"""Several seeds of a run in one program: the cost of a step against that of one run.

    python -m benchmarks.together                       # segment_acdc, 5 seeds, all ways
    python -m benchmarks.together --seeds=3 --ways=unrolled --config=segment_acdc:self_training

Ways:
    separate    the step of one run, called for one seed after the other
    unrolled    one program that holds a step for every seed
    vmapped     one program for a leading axis of seeds; convolutions become grouped ones

The ways alternate in one process, so that a noisy machine disturbs all alike. The cost is the time
of a step of all seeds over that of one separate step: the median over the repeats, and the range,
by wall clock and by processor time. The difference is the largest one between a seed's loss and
that of its separate step. Vmapped it is not zero: `jax.random` draws other numbers from a batch of
rbg keys than from each key. Memory is the arguments, results and temporaries that XLA plans.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import pairs
from benchmarks.gpu_rows import enlarge, read_config
from morphojax.tasks import experiment
from morphojax.train.task import StepFunction

Members = list[tuple[Any, Any, Any]]  # of each seed: state, constants, batch
Program = Callable[[Members], Any]


@dataclasses.dataclass
class Way:
    """run: a step of all seeds. losses: of each seed. compile_s: seconds. mib: of memory."""

    run: Callable[[], Any]
    losses: np.ndarray
    compile_s: float
    mib: float
    times: list[pairs.Time] = dataclasses.field(default_factory=list)


def members(config_name: str, seeds: int, miniature: bool) -> tuple[StepFunction, Members]:
    """The train step of a config's last stage, and for each seed what it is given."""
    made = []
    for seed in range(seeds):
        config, batch_size = read_config(config_name, miniature)
        config.seed = seed
        task = experiment.build(config)[0]
        batch = next(task.train_batches)
        task.train_batches.close()
        if batch_size != config.batch_size:
            batch = enlarge(batch, batch_size)
        made.append((task, jax.device_put((jax.jit(task.init)(task.pretrained), task.constants, dict(batch)))))
    return made[0][0].stages[-1][1], [arguments for _, arguments in made]


def compile_way(name: str, step: StepFunction, given: Members) -> Way:
    start = time.perf_counter()
    if name == "separate":
        program = jax.jit(step).lower(*given[0]).compile()
        run: Callable[[], Any] = lambda: [program(*arguments) for arguments in given]  # noqa: E731
    elif name == "unrolled":
        program = jax.jit(lambda given: [step(*arguments) for arguments in given]).lower(given).compile()
        run = lambda: program(given)  # noqa: E731
    else:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)
        program = jax.jit(jax.vmap(step)).lower(*stacked).compile()
        run = lambda: program(*stacked)  # noqa: E731
    seconds = time.perf_counter() - start
    planned: Any = program.memory_analysis()
    made = jax.device_get(run())
    losses = made[1]["loss"] if name == "vmapped" else np.stack([metrics["loss"] for _, metrics in made])
    sizes = (planned.argument_size_in_bytes, planned.output_size_in_bytes, planned.temp_size_in_bytes)
    return Way(lambda: jax.block_until_ready(run()), losses, seconds, sum(sizes) / 2**20)


def measure(names: Sequence[str], step: StepFunction, given: Members, repeats: int) -> list[list[str]]:
    """A row of texts per way, `separate` first."""
    ways = {name: compile_way(name, step, given) for name in ("separate", *names)}
    for _ in range(repeats):
        for way in ways.values():
            way.times.append(pairs.timed(way.run))
    separate, rows = ways["separate"], []
    for name, way in ways.items():
        costs = []
        for attribute in ("wall", "processor"):
            one = [getattr(t, attribute) / len(given) for t in separate.times]
            costs.append(str(pairs.ratio(one, [getattr(t, attribute) for t in way.times])))
        difference = np.abs(way.losses - separate.losses).max()
        rows.append([name, f"{way.compile_s:.1f}", *costs, f"{way.mib:.0f}", f"{difference:.2g}"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="segment_acdc", help="of configs/, on a synthetic cohort")
    parser.add_argument("--seeds", type=int, default=5, help="seeds in one program (default: 5)")
    parser.add_argument("--ways", default="unrolled,vmapped", help="besides separate, with commas (default: both)")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps (default: 5)")
    parser.add_argument("--miniature", action="store_true", help="tiny shapes: a test on the CPU")
    flags = parser.parse_args(argv)
    names = flags.ways.split(",")
    if flags.seeds < 2 or flags.repeats < 1:
        parser.error("give --seeds=2 or more, and --repeats=1 or more")
    if unknown := set(names) - {"unrolled", "vmapped"}:
        parser.error(f"--ways: {', '.join(sorted(unknown))} unknown; choose unrolled, vmapped")
    step, given = members(flags.config, flags.seeds, flags.miniature)
    print(f"{flags.config}, {flags.seeds} seeds, {jax.devices()[0].device_kind}")
    print("| way | compile s | cost, wall clock | cost, processor time | MiB | difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in measure(names, step, given, flags.repeats):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
