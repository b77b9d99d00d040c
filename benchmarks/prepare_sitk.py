"""Processor time of `prepare` against SimpleITK doing the same work, on one core.

    python -m benchmarks.prepare_sitk                                # on a small synthetic cohort
    python -m benchmarks.prepare_sitk --source=acdc --input=DIR      # on ACDC

Both read the NIfTI files of ED and ES and their labels, scale them to uint8 by the 0.5 and 99.5
percentiles of the whole stack, and resample them in plane to 128 x 128 pixels of 1.5 mm (images
linearly, labels to the nearest pixel, in canonical numbers).

- `to arrays` stops there.
- `to records` writes: `prepare` its whole dataset, SimpleITK's side only the slices, with the same
  writer of compressed shards.

SimpleITK runs one thread. Its side takes the percentiles from NumPy, as SimpleITK has none, and the
position of the grid from `place`. First the slices of both are compared: grey values may differ by
1, and one label pixel in a thousand may differ. Then the two alternate. A ratio is SimpleITK's
processor time over ours: its median over the repeats, and its range. Target: at least 2, to arrays.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from morphojax.anatomy import CONVENTIONS
from morphojax.data.geometry import Grid, normalise, place, to_grid
from morphojax.data.prepare.assemble import prepare
from morphojax.data.prepare.spec import PERCENTILES, PrepareSpec
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import Source
from morphojax.data.sources.synthetic import generate
from morphojax.data.store.records import ShardWriter, encode

GRID, TARGET = Grid(1.5, 128), 2.0
LABELS = {"synthetic": ("label_sa_*.nii.gz", "ukb_sax"), "acdc": ("*_gt.nii.gz", "acdc")}
Stacks = Iterator[tuple[np.ndarray, np.ndarray]]  # image and label, uint8 [Z, H, W]


def morphojax_stacks(source: Source) -> Stacks:
    for subject in source.subjects():
        for frame in source.read(subject, ("sax",)).views["sax"].frames:
            placement = place(frame.image, frame.affine, GRID)
            image = to_grid(normalise(frame.image, *PERCENTILES), placement, order=1)
            assert frame.label is not None
            yield image, to_grid(frame.label, placement, order=0)


def simpleitk_stacks(pairs: list[tuple[Path, Path]], convention: str) -> Stacks:
    canonical = np.zeros(256, np.uint8)
    for stored, canonical_id in CONVENTIONS[convention].to_canonical().items():
        canonical[stored] = canonical_id
    for image_path, label_path in pairs:
        image, label = sitk.ReadImage(str(image_path)), sitk.ReadImage(str(label_path))
        low, high = np.percentile(sitk.GetArrayViewFromImage(image), PERCENTILES)
        grey = sitk.Cast(image, sitk.sitkFloat32)
        # Half a grey value is added, as the cast to integers truncates.
        scaled = sitk.Cast(sitk.IntensityWindowing(grey, float(low), float(high), 0.5, 255.5), sitk.sitkUInt8)
        resample = resampler(image)
        resample.SetInterpolator(sitk.sitkLinear)
        resampled = sitk.GetArrayFromImage(resample.Execute(scaled))
        resample.SetInterpolator(sitk.sitkNearestNeighbor)
        yield resampled, canonical[sitk.GetArrayFromImage(resample.Execute(label))]


def resampler(image: sitk.Image) -> sitk.ResampleImageFilter:
    """A filter that resamples to the grid of `place`, along the axes of the image."""
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    axes = np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, image.GetOrigin()
    affine[:2] *= -1  # ITK's axes point left and posterior
    placement = place(np.broadcast_to(np.uint8(0), tuple(size)), affine, GRID)
    first, directions = np.zeros(3), [axes[:, 2]]
    for axis, flip in zip(placement.axes, placement.flips, strict=True):
        start = size[axis] // 2 - GRID.size // 2 * GRID.spacing_mm / spacing[axis]
        first[axis] = size[axis] - 1 - start if flip else start
        directions.insert(0, -axes[:, axis] if flip else axes[:, axis])
    resample = sitk.ResampleImageFilter()
    resample.SetSize([GRID.size, GRID.size, int(size[2])])
    resample.SetOutputSpacing([GRID.spacing_mm, GRID.spacing_mm, float(spacing[2])])
    resample.SetOutputDirection(np.stack(directions, axis=1).ravel().tolist())
    resample.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint(first.tolist()))
    return resample


def check_equal(stacks: Stacks, sitk_stacks: Stacks) -> int:
    """Compares the slices of both; returns how many there are."""
    slices = 0
    for (image, label), (sitk_image, sitk_label) in zip(stacks, sitk_stacks, strict=True):
        difference = int(np.abs(image.astype(int) - sitk_image).max())
        wrong = np.count_nonzero(label != sitk_label) / label.size
        assert difference <= 1 and wrong <= 1e-3, (
            f"the results differ: by {difference} grey values and in {wrong:.2%} of the label pixels"
        )
        slices += len(image)
    return slices


def write(root: Path, stacks: Stacks) -> None:
    writer = ShardWriter(root, "slices")
    for image, label in stacks:
        for i, la in zip(image, label, strict=True):
            writer.write(encode({"image": i, "label": la}))
    writer.close()


def exhaust(stacks: Stacks) -> None:
    for _ in stacks:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="synthetic", choices=sorted(LABELS))
    parser.add_argument("--input", type=Path, help="folder of ACDC; the synthetic cohort is a temporary one")
    parser.add_argument("--subjects", type=int, default=12, help="of the synthetic cohort")
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    if (flags.source == "acdc") != bool(flags.input):
        parser.error("--input goes with --source=acdc")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    pattern, convention = LABELS[flags.source]

    with tempfile.TemporaryDirectory() as scratch:
        root = flags.input or generate(Path(scratch) / "cohort", subjects=flags.subjects)
        if not flags.input:
            for cine in root.glob("*/sa.nii.gz"):  # only prepare would read frames of these
                cine.unlink()
        source = SOURCES[flags.source](root)
        labels = sorted(root.rglob(pattern))
        pairs = [(p.with_name(p.name.replace("label_", "").replace("_gt", "")), p) for p in labels]
        slices = check_equal(morphojax_stacks(source), simpleitk_stacks(pairs, convention))

        def prepare_dataset(output: Path) -> None:
            prepare(PrepareSpec(source, output, "bench", GRID), workers=1, progress=False)

        tasks = {
            "to arrays": (
                lambda _: exhaust(morphojax_stacks(source)),
                lambda _: exhaust(simpleitk_stacks(pairs, convention)),
            ),
            "to records": (prepare_dataset, lambda output: write(output, simpleitk_stacks(pairs, convention))),
        }
        seconds = {name: ([], []) for name in tasks}
        for repeat in range(flags.repeats + 1):
            for name, sides in tasks.items():
                for side, (run, of_side) in enumerate(zip(sides, seconds[name], strict=True)):
                    start = time.process_time()
                    run(Path(scratch) / f"{name}-{side}-{repeat}")
                    of_side.append(time.process_time() - start)
    print(f"{flags.source}: {len(pairs)} stacks, {slices} equal slices; {flags.repeats} alternating repeats")
    for name, (ours, sitks) in seconds.items():
        ours, sitks = ours[1:], sitks[1:]  # the first repeat warms caches and imports
        ratios = [b / a for a, b in zip(ours, sitks, strict=True)]
        our_ms, sitk_ms = (1e3 * statistics.median(s) / len(pairs) for s in (ours, sitks))
        target = f", target {TARGET:g}" if name == "to arrays" else ""
        print(
            f"{name}: ours {our_ms:.1f}, SimpleITK {sitk_ms:.1f} ms a stack; SimpleITK / ours "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}){target}"
        )


if __name__ == "__main__":
    main()
