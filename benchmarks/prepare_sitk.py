"""prepare beside SimpleITK doing the same work, on one core.

    python -m benchmarks.prepare_sitk                                # on a small synthetic cohort
    python -m benchmarks.prepare_sitk --source=acdc --input=DIR      # on ACDC

Both read the NIfTI files of ED and ES and their labels, scale by the 0.5 and 99.5 percentiles of the whole stack to uint8, and resample in
plane to 128 x 128 pixels of 1.5 mm, linearly (labels: nearest, in our numbers). `to arrays` stops there. `to records` goes on: `prepare`
writes its dataset with all that is in it, SimpleITK's slices are written to compressed shards by the same writer, and nothing else.
SimpleITK has one thread, and NumPy for the percentiles, of which it has none; where the grid lies is asked of `place` on both sides. The
slices of both are compared first: grey values may differ by 1, and one label pixel in a thousand. Turns alternate; a ratio is
SimpleITK's processor time over ours, its median over the repeats with the range. Target: at least 2, to arrays.
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


def ours(source: Source) -> Stacks:
    for subject in source.subjects():
        for frame in source.read(subject, ("sax",)).views["sax"].frames:
            placement = place(frame.image, frame.affine, GRID)
            image = to_grid(normalise(frame.image, *PERCENTILES), placement, order=1)
            assert frame.label is not None
            yield image, to_grid(frame.label, placement, order=0)


def theirs(pairs: list[tuple[Path, Path]], convention: str) -> Stacks:
    canonical = np.zeros(256, np.uint8)
    for disk, ours in CONVENTIONS[convention].to_canonical().items():
        canonical[disk] = ours
    for image_path, label_path in pairs:
        image, label = sitk.ReadImage(str(image_path)), sitk.ReadImage(str(label_path))
        low, high = np.percentile(sitk.GetArrayViewFromImage(image), PERCENTILES)
        grey = sitk.Cast(image, sitk.sitkFloat32)
        # Half a grey value more, as the cast to integers cuts off.
        scaled = sitk.Cast(sitk.IntensityWindowing(grey, float(low), float(high), 0.5, 255.5), sitk.sitkUInt8)
        resample = resampler(image)
        resample.SetInterpolator(sitk.sitkLinear)
        resampled = sitk.GetArrayFromImage(resample.Execute(scaled))
        resample.SetInterpolator(sitk.sitkNearestNeighbor)
        yield resampled, canonical[sitk.GetArrayFromImage(resample.Execute(label))]


def resampler(image: sitk.Image) -> sitk.ResampleImageFilter:
    """To the grid as `place` lays it: rows and columns along axes of the image, perhaps flipped."""
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
    found = sitk.ResampleImageFilter()
    found.SetSize([GRID.size, GRID.size, int(size[2])])
    found.SetOutputSpacing([GRID.spacing_mm, GRID.spacing_mm, float(spacing[2])])
    found.SetOutputDirection(np.stack(directions, axis=1).ravel().tolist())
    found.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint(first.tolist()))
    return found


def check(mine: Stacks, other: Stacks) -> int:
    """Slices compared."""
    slices = 0
    for (image, label), (their_image, their_label) in zip(mine, other, strict=True):
        apart = int(np.abs(image.astype(int) - their_image).max())
        wrong = np.count_nonzero(label != their_label) / label.size
        assert apart <= 1 and wrong <= 1e-3, (
            f"not the same work: {apart} grey values, {wrong:.2%} of label pixels apart"
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
    parser.add_argument("--input", type=Path, help="of acdc; the synthetic cohort is made for the occasion")
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
            for cine in root.glob("*/sa.nii.gz"):  # of which only one side would read a frame
                cine.unlink()
        source = SOURCES[flags.source](root)
        labels = sorted(root.rglob(pattern))
        pairs = [(p.with_name(p.name.replace("label_", "").replace("_gt", "")), p) for p in labels]
        slices = check(ours(source), theirs(pairs, convention))

        def prepared(output: Path) -> None:
            prepare(PrepareSpec(source, output, "bench", GRID), workers=1, progress=False)

        turns = {
            "to arrays": (lambda _: exhaust(ours(source)), lambda _: exhaust(theirs(pairs, convention))),
            "to records": (prepared, lambda output: write(output, theirs(pairs, convention))),
        }
        seconds = {name: ([], []) for name in turns}
        for repeat in range(flags.repeats + 1):
            for name, sides in turns.items():
                for side, (run, spent) in enumerate(zip(sides, seconds[name], strict=True)):
                    start = time.process_time()
                    run(Path(scratch) / f"{name}-{side}-{repeat}")
                    spent.append(time.process_time() - start)
    print(
        f"{flags.source}: {len(pairs)} stacks, {slices} slices, on which both agree; {flags.repeats} interleaved repeats"
    )
    for name, (mine, other) in seconds.items():
        mine, other = mine[1:], other[1:]  # the first of each warms caches and imports
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        each, their_each = (1e3 * statistics.median(s) / len(pairs) for s in (mine, other))
        print(
            f"{name}: ours {each:.1f}, SimpleITK {their_each:.1f} ms a stack; SimpleITK over ours {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}){f', target {TARGET:g}' if name == 'to arrays' else ''}"
        )


if __name__ == "__main__":
    main()
