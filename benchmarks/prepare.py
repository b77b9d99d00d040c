"""Time of `prepare` against reading and decompressing the NIfTI files alone, in one process.

    python -m benchmarks.prepare                                   # on a small synthetic cohort
    python -m benchmarks.prepare --source=acdc --input=DIR         # on a cohort of your own

The two alternate. It prints the paired ratio prepare / reading (target: at most 2.5) and subjects
per second.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from morphojax.data.geometry import Grid
from morphojax.data.prepare.assemble import prepare
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources import SOURCES
from morphojax.data.sources.synthetic import generate

TARGET = 2.5


def read(files: list[Path]) -> float:
    """Seconds to bring the stored voxels of every file into memory."""
    start = time.perf_counter()
    for path in files:
        image: Any = nib.load(path)
        np.asarray(image.dataobj.get_unscaled())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="synthetic", choices=sorted(SOURCES))
    parser.add_argument("--input", type=Path, help="default: a temporary synthetic cohort")
    parser.add_argument("--planes", default="sax")
    parser.add_argument("--subjects", type=int, default=12, help="of the synthetic cohort")
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    planes = tuple(flags.planes.split(","))
    names = ["sa" if p == "sax" else p for p in planes]
    wanted = [f"{kind}{name}" for kind in ("", "label_", "seg_", "seg4_") for name in names]

    with tempfile.TemporaryDirectory() as scratch:
        root = flags.input or generate(Path(scratch) / "cohort", subjects=flags.subjects)
        source = SOURCES[flags.source](root)
        files = sorted(root.rglob("*.nii.gz"))
        if flags.source in ("synthetic", "ukb_nifti"):  # only the files that prepare reads for these planes
            files = [
                f for f in files if f.name.removesuffix(".nii.gz").removesuffix("_ED").removesuffix("_ES") in wanted
            ]
        subjects = len(source.subjects())
        ratios, rates = [], []
        for repeat in range(flags.repeats + 1):
            reading = read(files)
            start = time.perf_counter()
            output = Path(scratch) / f"dataset-{repeat}"
            prepare(PrepareSpec(source, output, "bench", Grid(1.5, 128), planes), workers=1, progress=False)
            seconds = time.perf_counter() - start
            if repeat:  # the first repeat warms caches and imports
                ratios.append(seconds / reading)
                rates.append(subjects / seconds)
    print(
        f"{flags.source} {flags.planes}: {subjects} subjects, {len(files)} files, {flags.repeats} alternating repeats"
    )
    print(
        f"prepare / reading: median {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), target {TARGET}"
    )
    print(f"subjects/s in one process: median {statistics.median(rates):.1f}")


if __name__ == "__main__":
    main()
