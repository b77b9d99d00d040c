"""Every image encoder, forward and backward, against the same network in PyTorch, as paired ratios.

    python -m benchmarks.encoders                            # one of each family, on the CPU
    python -m benchmarks.encoders --device=gpu --batch=64    # against torch.compile
    python -m benchmarks.encoders --encoders=swin_tiny --sizes=128 --dtypes=float32 --threads=1

A step is the gradient, over all parameters, of the mean square of the pooled features and of every
map of the pyramid, in training mode. PyTorch runs transformers' model (of the U-Net, one written
here) with random weights, channels-last, in bfloat16 under autocast; on a GPU compiled.
transformers' ViT has no pyramid: of a ViT both sides take the pooled features alone. The windows of
a Swin are at most as large as its last map, on both sides (4 at 128 pixels, 7 at 224).

The steps alternate in one process, so that a noisy machine disturbs both alike. A ratio is
PyTorch's time over ours (above 1: we are faster): the median over the repeats, and the range, by
wall clock and, on the CPU, by processor time. On a GPU both multiply float32 in TF32. Compile
seconds are those of XLA alone, and of PyTorch's first step.

Memory is the peak of arguments, results and temporaries that XLA plans for the step, weights
included. PyTorch's is the peak of its allocator, on a GPU only.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import pairs
from benchmarks.pairs import Step
from morphojax.models.encoders import ENCODERS

CHANNELS = 3
HEAD = {
    "encoder": "network", "size": "size", "dtype": "dtype", "compile s": "compile_s", "PyTorch compile s": "pytorch_compile_s",
    "ms": "ms", "PyTorch ms": "pytorch_ms", "wall clock": "ratio", "processor time": "processor_ratio", "MiB": "mib",
    "PyTorch MiB": "pytorch_mib",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What both sides run."""

    encoder: str
    size: int  # pixels along a side
    dtype: str
    batch: int
    gpu: bool
    pairs: int


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """Yields values as soon as they are known. Nothing is compiled before the first yield.

    Raises ModuleNotFoundError, after our own times, where torch or transformers is not installed,
    and ValueError for an encoder without a counterpart.
    """
    shape = (setting.batch, setting.size, setting.size, CHANNELS)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    lowered, arguments = jax_step(setting, image)
    pairs.import_pytorch()
    yield {"network": setting.encoder, "size": setting.size, "dtype": setting.dtype, "batch": setting.batch}

    start = time.perf_counter()
    compiled = lowered.compile()
    yield {"compile_s": time.perf_counter() - start}

    def ours() -> None:
        jax.block_until_ready(compiled(*arguments))

    yield {"ms": pairs.milliseconds(ours), "mib": _planned(compiled) / 2**20}

    pytorch, peak = torch_step(setting, image)
    yield {"pytorch_compile_s": pairs.timed(pytorch).wall}
    peak()
    pytorch()
    values = {"pytorch_mib": peak() / 2**20} if setting.gpu else {}
    times = pairs.paired(ours, pytorch, setting.pairs)
    yield values | pairs.compare(*times, processor=not setting.gpu)


def build(name: str, size: int, dtype: str) -> Any:
    """Our encoder. All windows of a Swin fit its last map, as transformers needs."""
    encoder: Any = ENCODERS[name](dtype=jnp.dtype(dtype))
    return encoder.clone(window=min(encoder.window, size // 32)) if name.startswith("swin") else encoder


def jax_step(setting: Setting, image: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
    """Our step, lowered, and its arguments on the device."""
    model = build(setting.encoder, image.shape[1], setting.dtype)
    keys = {"params": jax.random.key(0), "draws": jax.random.key(1)}
    shapes = jax.eval_shape(lambda: model.init(keys, image[:2], train=False))
    variables, image = jax.device_put((pairs.random_like(shapes), image))
    statistics_of_norms = {key: value for key, value in variables.items() if key != "params"}

    def loss(params: Any, batch_stats: Any, image: jax.Array) -> Any:
        variables = {"params": params, **batch_stats}
        features, updated = model.apply(
            variables, image, train=True, mutable=["batch_stats"], rngs={"draws": keys["draws"]}
        )  # pyrefly: ignore
        maps = () if setting.encoder.startswith("vit") else features.pyramid  # pyrefly: ignore
        return sum(jnp.mean(jnp.square(f.astype(jnp.float32))) for f in (features.pooled, *maps)), updated  # pyrefly: ignore

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    arguments = (variables["params"], statistics_of_norms, image)
    return step.lower(*arguments), arguments


def _planned(compiled: Any) -> float:
    """Bytes of arguments, results and temporaries; NaN where the backend plans no memory."""
    planned = compiled.memory_analysis()
    if planned is None:
        return float("nan")
    return float(planned.argument_size_in_bytes + planned.output_size_in_bytes + planned.temp_size_in_bytes)


def torch_model(name: str, size: int) -> Any:
    """The model of the same layers and widths. Raises ValueError where no counterpart is known."""
    import transformers

    encoder = build(name, size, "float32")
    family, depths = name.split("_")[0], list(getattr(encoder, "depths", ()))
    if family == "unet":
        return _torch_unet([min(encoder.width * 2**i, encoder.cap) for i in range(encoder.stages)])
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
    raise ValueError(f"--encoders={name}: no counterpart in PyTorch is known here")


def _torch_unet(widths: list[int]) -> Any:
    """The levels: twice a 3x3 convolution, BatchNorm and ReLU; max-pooling between levels."""
    import torch

    levels = torch.nn.ModuleList()
    channels = CHANNELS
    for number, width in enumerate(widths):
        layers: list[Any] = [torch.nn.MaxPool2d(2)] if number else []
        for _ in range(2):
            convolution = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [convolution, torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
            channels = width
        levels.append(torch.nn.Sequential(*layers))
    return levels


def _torch_features(name: str, model: Any, x: Any) -> list[Any]:
    """Pooled features and, but for a ViT, the maps."""
    if name.startswith("unet"):
        maps = []
        for level in model:
            x = level(x)
            maps.append(x)
        return [x.mean((2, 3)), *maps]
    if name.startswith("vit"):
        return [model(x).last_hidden_state.mean(1)]
    out = model(x, output_hidden_states=True)
    return [out.pooler_output, *out.hidden_states]


def torch_step(setting: Setting, image: np.ndarray) -> tuple[Step, Callable[[], float]]:
    """The same step in PyTorch, and a function: peak bytes of its allocator since the last call."""
    import torch

    gpu, device = setting.gpu, "cuda" if setting.gpu else "cpu"
    torch.set_float32_matmul_precision("high" if gpu else "highest")
    model = torch_model(setting.encoder, image.shape[1]).to(device, memory_format=torch.channels_last).train()
    x = torch.from_numpy(image).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=setting.dtype == "bfloat16"):
            features = _torch_features(setting.encoder, model, x)
        return sum(f.float().square().mean() for f in features)

    compiled = torch.compile(forward) if gpu else forward

    def run() -> None:
        model.zero_grad(set_to_none=True)
        compiled().backward()
        if gpu:
            torch.cuda.synchronize()

    def peak() -> float:
        if not gpu:
            return float("nan")
        allocated = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return float(allocated)

    return run, peak


def line(values: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    decimals = {"compile_s": 1, "pytorch_compile_s": 1, "ms": 1, "pytorch_ms": 1, "mib": 0, "pytorch_mib": 0}
    cells = (values.get(key, "") for key in HEAD.values())
    texts = (
        f"{cell:.{decimals[key]}f}" if isinstance(cell, float) else str(cell)
        for key, cell in zip(HEAD.values(), cells, strict=True)
    )
    return f"| {' | '.join(texts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where both run")
    parser.add_argument("--encoders", default="resnet18,convnext_pico,swin_tiny,vit_tiny", help="names in ENCODERS")
    parser.add_argument("--sizes", default="128,224", help="pixels along a side")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="float32, bfloat16 or both")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--repeats", type=int, default=10, help="measured pairs, after three to warm up")
    parser.add_argument("--threads", type=int, default=0, help="cores that both may use; 0: all")
    flags = parser.parse_args()
    import torch

    gpu = flags.device == "gpu"
    jax.config.update("jax_platforms", "cuda" if gpu else "cpu")
    allowed = sorted(os.sched_getaffinity(0))
    # Before JAX starts: it makes as many threads as the process may use cores.
    os.sched_setaffinity(0, allowed[: flags.threads or len(allowed)])
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    for name in flags.encoders.split(","):
        if name not in ENCODERS:
            parser.error(f"--encoders={name}: choose among {', '.join(ENCODERS)}")
    print(f"batch {flags.batch}, {flags.device}, {cores} cores, {flags.repeats} pairs")
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for name in flags.encoders.split(","):
        for size in map(int, flags.sizes.split(",")):
            for dtype in flags.dtypes.split(","):
                values: dict[str, Any] = {}
                for new in measure(Setting(name, size, dtype, flags.batch, gpu, flags.repeats)):
                    values |= new
                print(line(values), flush=True)
    pairs.finish()


if __name__ == "__main__":
    main()
