"""Measures one row of `python -m benchmarks.gpu`, which starts this module in a process of its own.

    python -m benchmarks.gpu_rows "train step" segment_sax FILE [--miniature]

Writes the row's values to FILE as JSON, again whenever one more is known. Each function yields its
values as it finds them; before its first yield it imports, reads and traces, but compiles nothing.
"""

import argparse
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu import ROOT, one_line

Values = dict[str, Any]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "numpy")
SUBJECTS = 32  # of the synthetic cohort that train steps read
STEPS = 30  # timed
# Settings that make a config small enough for a test on a CPU.
MINIATURE = {
    "batch_size": 4, "data.synthetic_subjects": 12, "data.synthetic_size": 32, "data.synthetic_spacing_mm": 5.0,
    "model.width": 8, "model.decoder_widths": (4, 4, 8, 8), "model.table.mlp.hidden_units": 16, "input.slices": 2,
}  # fmt: skip
SMALL_ENCODERS = {
    "resnet50": "resnet18", "convnext_tiny": "convnext_pico", "swin_tiny": "swin_micro", "vit_small_16": "vit_tiny",
    "unet": "unet_small",
}  # fmt: skip


def device(_: str, miniature: bool) -> Iterator[Values]:
    """The device, versions of packages, and dependencies of the project that are not installed."""
    yield {}
    import jax

    import morphojax  # sets XLA_FLAGS

    device = jax.devices()[0]
    versions = {"morphojax": morphojax.__version__} | {package: _version(package) for package in PACKAGES}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = [re.split(r"[^\w-]", line)[0] for line in project["dependencies"]]
    missing = [name for name in dependencies if _version(name) is None]
    yield {
        "device": device.device_kind, "devices": jax.device_count(), "backend": jax.default_backend(), "cores": os.cpu_count(),
        "python": platform.python_version(), "versions": versions, "missing": missing, "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def train_step(name: str, miniature: bool) -> Iterator[Values]:
    """The train step of a config (`segment_sax`, `pretrain_arm:byol`) on one synthetic batch."""
    import jax
    import numpy as np

    from morphojax.tasks import experiment
    from morphojax.train import devices

    config, batch_size = read_config(name, miniature)
    task = experiment.build(config)[0]
    mesh = devices.make_mesh()
    replicated = devices.replicated(mesh)
    batch = devices.put_batch(enlarge(next(task.train_batches), batch_size), mesh)
    task.train_batches.close()
    constants = jax.device_put(task.constants, replicated)
    # With more than one stage, the last: an earlier one may train less.
    step = jax.jit(task.stages[-1][1], donate_argnums=0, out_shardings=replicated)
    lowered_init = jax.jit(task.init, out_shardings=replicated).lower(task.pretrained)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        jax.eval_shape(task.init, task.pretrained),
    )
    lowered = step.lower(shapes, constants, batch)
    yield {"config": name, "batch": batch_size}

    start = time.perf_counter()
    init = lowered_init.compile()
    yield {"init_s": time.perf_counter() - start}
    start = time.perf_counter()
    compiled = lowered.compile()
    yield {"compile_s": time.perf_counter() - start}

    state = init(task.pretrained)
    for _ in range(2):
        state, metrics = compiled(state, constants, batch)
    jax.block_until_ready(state)
    start, steps = time.perf_counter(), 2 if miniature else STEPS
    for _ in range(steps):
        state, metrics = compiled(state, constants, batch)
    jax.block_until_ready(state)
    rate = steps / (time.perf_counter() - start)
    values: Values = {"steps_per_s": rate, "examples_per_s": rate * batch_size, "loss": float(metrics["loss"])}
    memory = jax.devices()[0].memory_stats()
    yield values | ({"mib": memory["peak_bytes_in_use"] / 2**20} if memory else {})
    if not np.isfinite(values["loss"]):
        raise ValueError(f"the loss became {values['loss']} after {steps + 2} steps")


def read_config(name: str, miniature: bool) -> tuple[Any, int]:
    """A config on a small synthetic cohort, and its original batch size.

    The batch size of the config is reduced to the size of the cohort.
    """
    module, _, arm = name.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(*([arm] if arm else []))
    if config.data.dataset != "synthetic":  # a cohort prepared at 128 pixels of 1.5 mm
        config.data.update(dataset="synthetic", synthetic_size=128, synthetic_spacing_mm=1.5)
    config.data.update(synthetic_subjects=SUBJECTS, splits=("train", "val", "test"), fraction=1.0)
    if config.task == "probe":
        config.label = "cardiomyopathy"
    if "dynamics_every" in config:
        config.dynamics_every = 0
    config.eval_every = 0
    if miniature:
        config.update_from_flattened_dict(miniature_changes(config))
        config.model.encoder = SMALL_ENCODERS.get(config.model.encoder, config.model.encoder)
    batch_size = config.batch_size
    config.batch_size = min(batch_size, config.data.synthetic_subjects)
    return config, batch_size


def miniature_changes(config: Any) -> Values:
    """Those of MINIATURE whose key the config has."""
    return {key: value for key, value in MINIATURE.items() if _has(config, key)}


def _has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


def enlarge(batch: Any, size: int) -> Any:
    """A batch of `size` examples: those of a smaller one, repeated, each as another subject."""
    import numpy as np

    larger = {key: np.resize(array, (size, *np.shape(array)[1:])) for key, array in batch.items()}
    return larger | {"subject": np.arange(size, dtype=np.int32)}


def resnet(name: str, miniature: bool) -> Iterator[Values]:
    """A train step of a ResNet against PyTorch."""
    import jax

    from benchmarks import pairs, train_step

    gpu = jax.default_backend() == "gpu"
    if miniature:
        setting = train_step.Setting("resnet18", batch=2, size=32, channels=3, gpu=gpu, pairs=2)
    else:
        setting = train_step.Setting(name, batch=512, size=128, channels=3, gpu=gpu, pairs=20)
    yield from train_step.measure(setting, pairs.bandwidth(jax.devices()[0].device_kind))


def encoder(name: str, miniature: bool) -> Iterator[Values]:
    """An encoder, forward and backward, against PyTorch."""
    import jax

    from benchmarks import encoders

    gpu = jax.default_backend() == "gpu"
    if miniature:
        setting = encoders.Setting(SMALL_ENCODERS.get(name, name), size=32, dtype="float32", batch=2, gpu=gpu, pairs=2)
    else:
        setting = encoders.Setting(name, size=224, dtype="bfloat16", batch=64, gpu=gpu, pairs=20)
    yield from encoders.measure(setting)


def segmentation(name: str, miniature: bool) -> Iterator[Values]:
    """A config, trained and evaluated by its commands: Dice of the validation and test subjects."""
    from morphojax.tasks import cohort

    config = importlib.import_module(f"configs.{name}").get_config()
    changes = miniature_changes(config) | {"steps": 2, "data.fraction": 1.0} if miniature else {}
    config.update_from_flattened_dict(changes)
    yield {"config": name}

    start = time.perf_counter()
    cohort.open_configured(config.data)
    yield {"cohort_s": time.perf_counter() - start}
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config.{key}={value}" for key, value in (changes | {"workdir": folder}).items()]
        yield {"train_s": _run("morphojax.main", f"--config=configs/{name}.py", *flags)}
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        last = {key: value for line in lines for key, value in line.items()}
        yield {"steps": last["step"], "validation_dice": last["val/dice"]}
        yield {"evaluate_s": _run("morphojax.evaluate", f"--run={folder}", "--split=test", "--checkpoint=last")}
        summary = json.loads((Path(folder) / "evaluation" / "summary_test.json").read_text())
        mean = (row for row in summary["rows"] if (row["structure"], row["phase"]) == ("mean", "pooled"))
        yield {"test_dice": next(mean)["dice"]}


def _run(module: str, *flags: str) -> float:
    """Seconds that a command takes. Raises RuntimeError, with the error of the command, if it
    fails.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{module}: {one_line(done.stderr, done.returncode)}")
    return time.perf_counter() - start


MEASURES = {
    "device": device, "train step": train_step, "segmentation": segmentation, "resnet": resnet, "encoder": encoder
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=MEASURES)
    parser.add_argument("name")
    parser.add_argument("file", type=Path, help="JSON file of the values")
    parser.add_argument("--miniature", action="store_true", help="tiny shapes")
    parser.add_argument("--wait", action="store_true", help="compile nothing before a line comes from standard input")
    flags = parser.parse_args()
    values: Values = {}
    status = 0
    try:
        for number, new in enumerate(MEASURES[flags.kind](flags.name, flags.miniature)):
            values |= {key: value for key, value in new.items() if not isinstance(value, float) or math.isfinite(value)}
            part = flags.file.with_suffix(".part")
            part.write_text(json.dumps(values))
            part.replace(flags.file)
            if flags.wait and number == 0 and not sys.stdin.readline():
                raise EOFError("the parent process has ended")
    except Exception:  # print it, and still leave by `finish`
        traceback.print_exc()
        status = 1
    from benchmarks import pairs

    pairs.finish(status)


if __name__ == "__main__":
    main()
