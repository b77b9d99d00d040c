"""Every image encoder, forward and backward, beside the same network in PyTorch, as paired ratios.

    python -m benchmarks.encoders                                   # one of each family, 128 and 224 pixels, on the CPU
    python -m benchmarks.encoders --device=gpu --batch=64           # against torch.compile
    python -m benchmarks.encoders --encoders=swin_tiny --sizes=128 --dtypes=float32 --threads=1

A step is the gradient over all parameters of the mean square of the pooled features and of every map of the pyramid, in training
mode. PyTorch runs transformers' model with random weights, channels-last, in bfloat16 under autocast; on the GPU compiled.
A ViT has no pyramid of its own there, so pooled features alone count on both sides. A Swin's windows
are no larger than its last map, on both sides (4 at 128 pixels, 7 at 224). The steps alternate in one process, so that a
noisy machine disturbs both alike; a ratio is PyTorch's time over ours (above 1: we are faster), its median over the repeats with the
range, by wall clock and, on the CPU, by processor time. On a GPU both multiply float32 in TF32.

Memory is the peak of arguments, results and temporaries that XLA plans for the step, weights included; PyTorch's is what its
allocator had at most, on the GPU alone (on the CPU it does not count, and the resident size of a process that runs both says nothing).
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from morphojax.models.encoders import ENCODERS

_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "where both run")
_NAMES = flags.DEFINE_list("encoders", ["resnet18", "convnext_pico", "swin_tiny", "vit_tiny"], "names in ENCODERS")
_SIZES = flags.DEFINE_list("sizes", ["128", "224"], "pixels along a side")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "float32, bfloat16 or both")
_BATCH = flags.DEFINE_integer("batch", 8, "images per step")
_REPEATS = flags.DEFINE_integer("repeats", 10, "measured pairs, after one to warm up")
_THREADS = flags.DEFINE_integer("threads", 0, "cores that both may use; 0: all")
CHANNELS = 3
Step = Callable[[], None]


def build(name: str, size: int, dtype: str) -> Any:
    """Our encoder. Windows of a Swin are at most as large as its last map: transformers cannot shrink them in one stage alone."""
    encoder: Any = ENCODERS[name](dtype=jnp.dtype(dtype))
    return encoder.clone(window=min(encoder.window, size // 32)) if name.startswith("swin") else encoder


def jax_step(name: str, image: np.ndarray, dtype: str) -> tuple[Step, float]:
    """A function that makes one step and waits for it; and the bytes that it holds at most."""
    model = build(name, image.shape[1], dtype)
    keys = {"params": jax.random.key(0), "draws": jax.random.key(1)}
    variables = jax.jit(model.init, static_argnames="train")(keys, image[:2], train=False)
    variables, image = jax.device_put((variables, image))

    def loss(params: Any, others: Any, image: jax.Array) -> Any:
        variables = {"params": params, **others}
        features, updated = model.apply(
            variables, image, train=True, mutable=["batch_stats"], rngs={"draws": keys["draws"]}
        )  # pyrefly: ignore
        maps = () if name.startswith("vit") else features.pyramid  # pyrefly: ignore
        return sum(jnp.mean(jnp.square(f.astype(jnp.float32))) for f in (features.pooled, *maps)), updated  # pyrefly: ignore

    others = {key: value for key, value in variables.items() if key != "params"}
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    compiled = step.lower(variables["params"], others, image).compile()
    planned = compiled.memory_analysis()
    assert planned is not None, "this backend plans no memory"
    held = planned.argument_size_in_bytes + planned.output_size_in_bytes + planned.temp_size_in_bytes
    return lambda: jax.block_until_ready(compiled(variables["params"], others, image)) and None, float(held)


def torch_model(name: str, size: int) -> Any:
    """transformers' model of the same layers and widths, random weights. Raises ValueError for an encoder that has none."""
    import transformers

    encoder = build(name, size, "float32")
    family, depths = name.split("_")[0], list(getattr(encoder, "depths", ()))
    if family.startswith("resnet"):
        bottleneck = name == "resnet50"
        widths = [(4 if bottleneck else 1) * encoder.width * 2**i for i in range(4)]
        layer = "bottleneck" if bottleneck else "basic"
        config: Any = transformers.ResNetConfig(
            num_channels=CHANNELS, embedding_size=encoder.width, hidden_sizes=widths, depths=depths, layer_type=layer
        )
        return transformers.ResNetModel(config)
    if family == "convnext":
        widths = [encoder.width * 2**i for i in range(4)]
        return transformers.ConvNextModel(
            transformers.ConvNextConfig(num_channels=CHANNELS, hidden_sizes=widths, depths=depths)
        )
    if family == "swin":
        config = transformers.SwinConfig(
            image_size=size, num_channels=CHANNELS, embed_dim=encoder.width, depths=depths,
            num_heads=list(encoder.heads), window_size=encoder.window, drop_path_rate=0.0,
        )  # fmt: skip
        return transformers.SwinModel(config)
    if family == "vit":
        width = encoder.heads * encoder.width
        config = transformers.ViTConfig(
            image_size=size, num_channels=CHANNELS, patch_size=encoder.patch, hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=encoder.depth, num_attention_heads=encoder.heads,
        )  # fmt: skip
        return transformers.ViTModel(config, add_pooling_layer=False)
    raise ValueError(f"--encoders={name}: no counterpart in transformers is known here")


def torch_step(name: str, image: np.ndarray, dtype: str, gpu: bool) -> tuple[Step, Callable[[], float]]:
    """The same in PyTorch; and what gives the bytes that it held at most, since the first call of that."""
    import torch

    device = "cuda" if gpu else "cpu"
    torch.set_float32_matmul_precision("high" if gpu else "highest")
    model = torch_model(name, image.shape[1]).to(device, memory_format=torch.channels_last).train()
    x = torch.from_numpy(image).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    vit = name.startswith("vit")

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            out = model(x, output_hidden_states=not vit)
        seen = (out.last_hidden_state.mean(1),) if vit else (out.pooler_output, *out.hidden_states)
        return sum(f.float().square().mean() for f in seen)

    compiled = torch.compile(forward) if gpu else forward

    def run() -> None:
        model.zero_grad(set_to_none=True)
        compiled().backward()
        if gpu:
            torch.cuda.synchronize()

    def most() -> float:
        if not gpu:
            return float("nan")
        held = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return float(held)

    return run, most


def timed(run: Step) -> tuple[float, float]:
    """Seconds of wall clock and of processor time, summed over threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, size: int, dtype: str, gpu: bool) -> str:
    image = np.random.default_rng(0).standard_normal((_BATCH.value, size, size, CHANNELS), np.float32)
    ours, held = jax_step(name, image, dtype)
    theirs, most = torch_step(name, image, dtype, gpu)
    timed(ours), timed(theirs), most()
    theirs()
    theirs_held = most()
    pairs = [(timed(ours), timed(theirs)) for _ in range(_REPEATS.value)]
    cells = [f"{name} | {size} | {dtype}"]
    cells += [f"{1e3 * statistics.median(pair[i][0] for pair in pairs):.1f}" for i in (0, 1)]
    for i in range(1 if gpu else 2):
        ratio = [torch_time[i] / jax_time[i] for jax_time, torch_time in pairs]
        cells.append(f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})")
    cells += ["" if np.isnan(n) else f"{n / 2**20:.0f}" for n in (held, theirs_held)]
    return f"| {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    import torch

    gpu = _DEVICE.value == "gpu"
    jax.config.update("jax_platforms", "cuda" if gpu else "cpu")
    allowed = sorted(os.sched_getaffinity(0))
    # Before JAX starts: the size of its pool of threads is the number of cores that the process may use.
    os.sched_setaffinity(0, allowed[: _THREADS.value or len(allowed)])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name in _NAMES.value:
        if name not in ENCODERS:
            raise app.UsageError(f"--encoders={name}: choose among {', '.join(ENCODERS)}")
    ratios = ["wall clock", "processor time"][: 1 if gpu else 2]
    head = ["encoder", "size", "dtype", "ms", "PyTorch ms", *ratios, "MiB", "PyTorch MiB"]
    print(f"batch {_BATCH.value}, {_DEVICE.value}, {len(os.sched_getaffinity(0))} cores, {_REPEATS.value} pairs")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name in _NAMES.value:
        for size in map(int, _SIZES.value):
            for dtype in _DTYPES.value:
                print(row(name, size, dtype, gpu), flush=True)


if __name__ == "__main__":
    app.run(main)
