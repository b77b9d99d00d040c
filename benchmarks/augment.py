"""The time of augmentation, against SciPy and against one convolution of a ResNet.

    python -m benchmarks.augment [--subjects 24 --slices 6 --size 128 --channels 1]

Prints milliseconds (the median of interleaved repeats) and two ratios. The warp alone is compared
with SciPy, which warps the same images one by one (order 1, float32). The full augmentation is
compared with the forward and backward pass of a single 3x3 convolution of 64 channels at a quarter
of the resolution: a ResNet-18 has four of these in its first stage.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import scipy.ndimage

from morphojax.augment import Augmentation, augment, draw, warp_matrix

WARP = Augmentation(rotation_degrees=30, scale=(0.8, 1.25), translation_fraction=0.06)
FULL = Augmentation(
    rotation_degrees=30,
    scale=(0.8, 1.25),
    translation_fraction=0.06,
    gamma=(0.7, 1.4),
    brightness=0.1,
    contrast=0.2,
    noise_sd=0.05,
    bias_field=0.3,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("subjects", 24), ("slices", 6), ("size", 128), ("channels", 1), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    subjects, slices, size, channels = args.subjects, args.slices, args.size, args.channels

    key = jax.random.key(0)
    image = jax.random.uniform(key, (subjects, slices, size, size, channels))
    host, matrices = np.asarray(image), np.asarray(warp_matrix(draw(key, subjects), WARP, size, size))

    def scipy_warp():
        for b in range(subjects):
            linear = matrices[b, :2, :2]
            middle = (size - 1) / 2
            offset = matrices[b, :2, 2] + middle - linear @ np.full(2, middle)
            for plane in np.moveaxis(host[b], -1, 1).reshape(-1, size, size):
                scipy.ndimage.affine_transform(plane, linear, offset, order=1, mode="grid-constant")

    features = jax.random.normal(key, (subjects * slices, size // 4, size // 4, 64))
    kernel = jax.random.normal(key, (3, 3, 64, 64))

    @jax.jit
    @jax.grad
    def conv_step(operands):
        x, w = operands
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y**2).sum()

    contenders = {
        "warp alone": lambda: augment(key, image, None, WARP)[0],
        "full augmentation": lambda: augment(key, image, None, FULL)[0],
        "SciPy warp": scipy_warp,
        "one 3x3 convolution, forward and backward": lambda: conv_step((features, kernel)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):  # the first repeat compiles
        for name, call in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                seconds[name].append(time.perf_counter() - start)

    print(f"{jax.devices()[0].device_kind}: {subjects * slices} slices of {size}x{size}x{channels}")
    warp, full, scipy_time, conv = (statistics.median(s) for s in seconds.values())
    for name, value in zip(contenders, (warp, full, scipy_time, conv), strict=True):
        print(f"  {value * 1e3:9.2f} ms  {name}")
    print(f"warp / SciPy warp        {warp / scipy_time:.3f}")
    print(f"full / convolution       {full / conv:.3f}")


if __name__ == "__main__":
    main()
