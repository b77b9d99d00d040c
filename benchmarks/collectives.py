"""The bytes that a pretraining step exchanges between devices, counted in the compiled program and
compared with a formula.

    python -m benchmarks.collectives                              # 1, 2, 4 and 8 simulated devices
    python -m benchmarks.collectives --devices=2,4 --per-device=200 --norm=group

The train step of configs/pretrain_sax.py (image-table InfoNCE), with a small encoder and small
images, is compiled for N host devices and a global batch of N times --per-device: weak scaling.
It is not run. Each N has a process of its own, because JAX fixes it when it starts. The arrays of
the collectives in the optimised HLO are sorted by their shapes:

    pairs       two axes as long as the global batch: a matrix of all pairs, which no device should
                hold
    batch       one such axis: embeddings, and what objectives compare between subjects
    parameters  no such axis, more than a kilobyte: gradients, and two Gram matrices of the metrics
    small       the rest: batch statistics, gradients of biases, sums

Choose --per-device so that no other axis is as long as the batch, and above the 128 features:
below, the metric `effective_rank` takes the Gram matrix of the batch, which is a matrix of pairs.
Bytes are those of the results: a ring all-reduce sends twice as many from each device, an
all-gather once. docs/scaling.md uses the formula.
"""

import argparse
import collections
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_COLLECTIVE = re.compile(rf"= (\(?[^=]*?\)?) ({'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One array of a collective's result. The arrays of a combined one are counted one by one."""

    kind: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return _BYTES[self.dtype] * math.prod(self.shape)


def collectives(hlo: str) -> list[Collective]:
    """Those of an optimised HLO text."""
    found = []
    # Comments in a long tuple, /*index=5*/, hold an equals sign.
    for result, kind in _COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", hlo)):
        for dtype, dims in _SHAPE.findall(result):
            found.append(Collective(kind, dtype, tuple(int(d) for d in dims.split(",") if d)))
    return found


def shapes(hlo: str) -> set[tuple[int, ...]]:
    """The shapes of all arrays of a program."""
    return {tuple(int(d) for d in dims.split(",") if d) for _, dims in _SHAPE.findall(hlo)}


def sort(found: Sequence[Collective], batch: int) -> dict[str, int]:
    """Bytes by the classes above."""
    total = collections.Counter(dict.fromkeys(("parameters", "batch", "pairs", "small"), 0))
    for one in found:
        axes = one.shape.count(batch)
        name = "pairs" if axes > 1 else "batch" if axes else "parameters" if one.bytes > 1024 else "small"
        total[name] += one.bytes
    return dict(total)


def formula(*, batch: int, parameters: int, features: int, columns: int) -> dict[str, int]:
    """Bytes in float32 for two devices or more.

    parameters: their gradients, and the Gram matrices [features, features] of both embeddings.
    batch: for the logits, the embeddings [batch, features] of one side are gathered and their
    gradient is summed; the metric `uniformity` gathers both sides; the random numbers
    [batch, columns] that choose the corrupted columns are gathered: XLA does not split top_k.
    """
    return {"parameters": 4 * (parameters + 2 * features**2), "batch": 4 * batch * (4 * features + columns), "pairs": 0}


def small_config(norm: str) -> Any:
    from configs import pretrain_sax

    config = pretrain_sax.get_config()
    config.update_from_flattened_dict(
        {
            "batch_size": 8,
            "data.synthetic_subjects": 16,
            "data.synthetic_size": 32,
            "data.synthetic_spacing_mm": 6.0,
            "input.slices": 2,
            "model.width": 8,
            "model.norm": norm,
            "eval_every": 0,
            "dynamics_every": 0,
        }
    )
    return config


def measure(per_device: int, norm: str) -> dict[str, Any]:
    """Of the train step on all devices of this process."""
    import jax
    import numpy as np

    from morphojax.tasks import experiment
    from morphojax.train import devices

    config, batch_size = small_config(norm), per_device * jax.device_count()
    task, _ = experiment.build(config)
    mesh = devices.make_mesh()
    whole, split = devices.replicated(mesh), jax.NamedSharding(mesh, jax.P("data"))

    def abstract(tree: Any, sharding: Any, *lead: int) -> Any:
        """Shapes instead of arrays. lead: in place of the first axis."""
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((*lead, *a.shape[len(lead) :]), a.dtype, sharding=sharding), tree
        )

    state = abstract(jax.eval_shape(task.init, task.pretrained), whole)
    constants = abstract(jax.tree.map(np.asarray, dict(task.constants)), whole)
    example = next(task.train_batches)
    batch = abstract(dict(example), split, batch_size)
    step = jax.jit(task.stages[0][1], donate_argnums=0, out_shardings=whole).lower(state, constants, batch).compile()
    hlo = step.as_text() or ""
    expected = formula(
        batch=batch_size,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        features=config.objectives.info_nce.features,
        columns=example["values"].shape[1],
    )
    return {
        "devices": jax.device_count(),
        "batch": batch_size,
        "counted": sort(collectives(hlo), batch_size),
        "formula": expected,
        "pair_matrices": sorted({s for s in shapes(hlo) if s.count(batch_size) > 1}),
        "slices_of_pairs": (per_device, batch_size) in shapes(hlo),
    }


def measure_apart(devices: int, per_device: int, norm: str) -> dict[str, Any]:
    """`measure` in a process with so many simulated devices."""
    flags = "--xla_backend_optimization_level=0"  # of LLVM, which comes after the collectives; compiles faster
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "benchmarks.collectives", "--here", f"--per-device={per_device}", f"--norm={norm}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(found: Mapping[str, Any]) -> str:
    counted, expected = found["counted"], found["formula"]
    cells = [found["devices"], found["batch"]]
    for name in ("parameters", "batch"):
        ratio = f"{counted[name] / expected[name]:.2f}" if counted[name] else "-"
        cells += [f"{counted[name]:,}", ratio]
    cells += [f"{counted['small']:,}", counted["pairs"], found["pair_matrices"] or "none"]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of simulated devices")
    parser.add_argument("--per-device", type=int, default=160, help="subjects per device")
    parser.add_argument("--norm", default="batch", choices=("batch", "group"), help="config.model.norm")
    parser.add_argument("--here", action="store_true", help="on the devices of this process, as JSON")
    flags = parser.parse_args()
    if flags.here:
        print(json.dumps(measure(flags.per_device, flags.norm)))
        return
    print(
        "| devices | batch | parameters: bytes | / formula | batch: bytes | / formula | small | pairs | B x B arrays |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for count in flags.devices.split(","):
        print(row(measure_apart(int(count), flags.per_device, flags.norm)), flush=True)


if __name__ == "__main__":
    main()
