"""The speed of a train step against the same step in PyTorch, as paired ratios.

    python -m benchmarks.train_step                # ResNet-18, batch 16, float32, on the CPU
    python -m benchmarks.train_step --device=gpu   # ResNet-50, batch 512, bfloat16

Images are 128x128x3. Both sides take the gradient of a cross-entropy over all parameters, update
the running statistics of BatchNorm and make an Adam step. PyTorch runs transformers' ResNet,
channels-last, with its fused Adam; on a GPU compiled, under bfloat16 autocast. The steps alternate
in one process, so that a noisy machine disturbs both alike. A ratio is PyTorch's time over ours
(above 1: we are faster): the median over the pairs, and the range.

On the CPU the ratio of processor time is printed too: a busy machine disturbs it less than wall
clock. Set OMP_WAIT_POLICY=passive there, or PyTorch's threads use processor time while they wait.

On a GPU the last line is the fraction of the memory-bandwidth limit: the bytes that XLA counts for
the compiled step, over its time and --bandwidth (GB/s; by default that of the device, where it is
known).
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import pairs
from benchmarks.pairs import Step
from morphojax.models.encoders import ENCODERS

CLASSES = 10
LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Setting:
    """What both sides run. On a GPU: bfloat16, and PyTorch compiled."""

    encoder: str
    batch: int
    size: int  # pixels along a side
    channels: int
    gpu: bool
    pairs: int


class Classifier(nn.Module):
    encoder: nn.Module

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(CLASSES)(self.encoder(image, train).pooled)


def measure(setting: Setting, bandwidth: float | None) -> Iterator[dict[str, Any]]:
    """Yields values as soon as they are known. Nothing is compiled before the first yield.

    Raises ModuleNotFoundError, after our own times, where torch or transformers is not installed.
    """
    rng = np.random.default_rng(0)
    image = rng.standard_normal((setting.batch, setting.size, setting.size, setting.channels), np.float32)
    label = rng.integers(0, CLASSES, setting.batch).astype(np.int32)
    lowered, state = jax_step(setting, image, label)
    pairs.import_pytorch()
    yield {"network": f"{setting.encoder}, {setting.size}x{setting.size}x{setting.channels}", "batch": setting.batch}

    start = time.perf_counter()
    compiled = lowered.compile()
    yield {"compile_s": time.perf_counter() - start}
    ours = stepper(compiled, state, image, label)
    yield {"ms": pairs.milliseconds(ours)}

    pytorch = torch_step(setting, image, label)
    yield {"pytorch_compile_s": pairs.timed(pytorch).wall}
    our_times, pytorch_times = pairs.paired(ours, pytorch, setting.pairs)
    values = pairs.compare(our_times, pytorch_times, processor=not setting.gpu)
    moved = float((compiled.cost_analysis() or {}).get("bytes accessed", 0.0))
    if setting.gpu and bandwidth and moved:
        values |= {"bandwidth_percent": moved / values["ms"] / bandwidth / 1e4, "gb_per_step": moved / 1e9}
    yield values


def jax_step(setting: Setting, image: np.ndarray, label: np.ndarray) -> tuple[Any, Any]:
    """Our step, lowered, and a state for it to start from."""
    model = Classifier(ENCODERS[setting.encoder](dtype=jnp.bfloat16 if setting.gpu else jnp.float32))
    tx = optax.adam(LEARNING_RATE)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image[:2], train=False))
    variables = jax.device_put(pairs.random_like(shapes))
    opt_state = jax.tree.map(jnp.zeros_like, jax.eval_shape(tx.init, variables["params"]))
    state = (variables["params"], variables["batch_stats"], opt_state)

    def step(state, image, label):
        params, batch_stats, opt_state = state

        def loss_fn(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, new = model.apply(variables, image, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new["batch_stats"]

        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    return jax.jit(step, donate_argnums=0).lower(state, image, label), state


def stepper(compiled: Any, state: Any, image: np.ndarray, label: np.ndarray) -> Step:
    """A function that makes one step and waits for it."""
    on_device = jax.device_put((image, label))

    def run() -> None:
        nonlocal state
        state = compiled(state, *on_device)
        jax.block_until_ready(state)

    return run


def torch_step(setting: Setting, image: np.ndarray, label: np.ndarray) -> Step:
    """The same step in PyTorch; on a GPU its first call compiles."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    device = torch.device("cuda" if setting.gpu else "cpu")
    bottleneck = setting.encoder == "resnet50"
    config = transformers.ResNetConfig(
        num_channels=image.shape[-1],
        depths={"resnet18": [2, 2, 2, 2]}.get(setting.encoder, [3, 4, 6, 3]),
        layer_type="bottleneck" if bottleneck else "basic",
        hidden_sizes=[256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512],
    )
    config.num_labels = CLASSES
    model: torch.nn.Module = transformers.ResNetForImageClassification(config)
    model = model.to(device).train()
    for p in model.parameters():
        p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(label).long().to(device)

    def forward() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=setting.gpu):
            return torch.nn.functional.cross_entropy(model(x).logits, y)

    forward = torch.compile(forward) if setting.gpu else forward

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        optimizer.step()
        if setting.gpu:
            torch.cuda.synchronize()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where both run")
    parser.add_argument(
        "--encoder",
        choices=("resnet18", "resnet34", "resnet50"),
        help="default: resnet18 on the CPU, resnet50 on a GPU",
    )
    parser.add_argument("--batch", type=int, help="images per step (default: 16 on the CPU, 512 on a GPU)")
    parser.add_argument("--size", type=int, default=128, help="pixels along a side")
    parser.add_argument("--channels", type=int, default=3, help="channels of the image")
    parser.add_argument("--pairs", type=int, default=20, help="measured pairs, after three to warm up")
    parser.add_argument("--bandwidth", type=float, help="GB/s of the GPU's memory (default: by the device's name)")
    flags = parser.parse_args()
    gpu = flags.device == "gpu"
    jax.config.update("jax_platforms", "cuda" if gpu else "cpu")
    encoder = flags.encoder or ("resnet50" if gpu else "resnet18")
    setting = Setting(encoder, flags.batch or (512 if gpu else 16), flags.size, flags.channels, gpu, flags.pairs)
    values: dict[str, Any] = {}
    for new in measure(setting, flags.bandwidth or pairs.bandwidth(jax.devices()[0].device_kind)):
        values |= new
    print(f"{values['network']}, batch {setting.batch}, {flags.device}, {setting.pairs} pairs")
    print(f"compiled in {values['compile_s']:.1f} s; first step of PyTorch {values['pytorch_compile_s']:.1f} s")
    print(f"morphojax {values['ms']:.1f} ms, PyTorch {values['pytorch_ms']:.1f} ms, ratio {values['ratio']}")
    if "processor_ratio" in values:
        print(f"processor time: ratio {values['processor_ratio']}")
    if "bandwidth_percent" in values:
        print(f"memory-bandwidth limit: {values['bandwidth_percent']:.0f} % ({values['gb_per_step']:.1f} GB per step)")
    pairs.finish()


if __name__ == "__main__":
    main()
