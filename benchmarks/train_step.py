"""The speed of a train step against the same step in PyTorch, as paired ratios.

    python -m benchmarks.train_step                # ResNet-18, 128x128x3, batch 16, float32, on the CPU, all cores
    python -m benchmarks.train_step --device=gpu   # ResNet-50, 128x128x3, batch 512, bfloat16, against torch.compile

Both sides take the gradient of a cross-entropy over all parameters, update BatchNorm's statistics and make an Adam step;
PyTorch runs transformers' ResNet, channels-last, with its fused Adam. The steps alternate in one process, so that a noisy
machine disturbs both alike; a ratio is PyTorch's time over ours (above 1: we are faster), its median over the pairs with
the range. On the CPU the same is given for processor time, which a busy neighbour disturbs less than wall-clock; set
OMP_WAIT_POLICY=passive, or PyTorch's threads burn processor time while they wait.
On the GPU the share of the memory-bandwidth limit is the bytes that XLA counts for the compiled step over its time and
--bandwidth (GB/s: 3350 for an H100 SXM, 4800 for an H200).
"""

import os
import statistics
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from morphojax.models.encoders import ENCODERS

_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "where both run")
_ENCODER = flags.DEFINE_string(
    "encoder", None, "resnet18 (default on the CPU), resnet34 or resnet50 (default on the GPU)"
)
_BATCH = flags.DEFINE_integer("batch", None, "images per step; default 16 on the CPU, 512 on the GPU")
_SIZE = flags.DEFINE_integer("size", 128, "pixels along a side")
_CHANNELS = flags.DEFINE_integer("channels", 3, "channels of the image")
_PAIRS = flags.DEFINE_integer("pairs", 20, "measured pairs, after three to warm up")
_BANDWIDTH = flags.DEFINE_float("bandwidth", 4800.0, "GB/s of the GPU's memory")
CLASSES = 10
LEARNING_RATE = 1e-3


class Classifier(nn.Module):
    encoder: nn.Module

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(CLASSES)(self.encoder(image, train).pooled)


def jax_step(encoder: str, image: np.ndarray, label: np.ndarray, dtype: jnp.dtype) -> tuple[Callable[[], None], float]:
    """A function that makes one step and waits for it; and the bytes that XLA counts for the step."""
    model = Classifier(ENCODERS[encoder](dtype=dtype))
    tx = optax.adam(LEARNING_RATE)
    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(0), image[:2], train=False)
    state = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))
    image, label = jax.device_put(image), jax.device_put(label)

    def step(state, image, label):
        params, batch_stats, opt_state = state

        def loss_fn(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, new = model.apply(variables, image, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new["batch_stats"]

        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    compiled = jax.jit(step, donate_argnums=0).lower(state, image, label).compile()

    def run() -> None:
        nonlocal state
        state = compiled(state, image, label)
        jax.block_until_ready(state)

    return run, float((compiled.cost_analysis() or {}).get("bytes accessed", 0.0))


def torch_step(encoder: str, image: np.ndarray, label: np.ndarray, gpu: bool) -> Callable[[], None]:
    """The same in PyTorch. On the GPU compiled and under bfloat16 autocast."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    device = torch.device("cuda" if gpu else "cpu")
    bottleneck = encoder == "resnet50"
    config = transformers.ResNetConfig(
        num_channels=image.shape[-1],
        depths={"resnet18": [2, 2, 2, 2]}.get(encoder, [3, 4, 6, 3]),
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
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            return torch.nn.functional.cross_entropy(model(x).logits, y)

    forward = torch.compile(forward) if gpu else forward

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    return run


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall-clock and of processor time, summed over threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(_: list[str]) -> None:
    gpu = _DEVICE.value == "gpu"
    jax.config.update("jax_platforms", "cuda" if gpu else "cpu")
    encoder = _ENCODER.value or ("resnet50" if gpu else "resnet18")
    batch = _BATCH.value or (512 if gpu else 16)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, _SIZE.value, _SIZE.value, _CHANNELS.value), np.float32)
    label = rng.integers(0, CLASSES, batch).astype(np.int32)
    ours, moved = jax_step(encoder, image, label, jnp.bfloat16 if gpu else jnp.float32)
    theirs = torch_step(encoder, image, label, gpu)

    pairs = [(timed(ours), timed(theirs)) for _ in range(_PAIRS.value + 3)][3:]
    print(
        f"{encoder} {_SIZE.value}x{_SIZE.value}x{_CHANNELS.value}, batch {batch}, {_DEVICE.value}, {len(pairs)} pairs"
    )
    for i, name in enumerate(("wall-clock", "processor time")[: 1 if gpu else 2]):
        ratio = [t[i] / j[i] for j, t in pairs]
        print(
            f"{name}: morphojax {1e3 * statistics.median(j[i] for j, _ in pairs):.1f} ms, "
            f"PyTorch {1e3 * statistics.median(t[i] for _, t in pairs):.1f} ms, "
            f"ratio {statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})"
        )
    if gpu:
        seconds = statistics.median(j[0] for j, _ in pairs)
        print(
            f"memory-bandwidth limit: {moved / seconds / _BANDWIDTH.value / 1e7:.0f} % ({moved / 1e9:.1f} GB per step)"
        )


if __name__ == "__main__":
    app.run(main)
