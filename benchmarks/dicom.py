"""Time to read a UK Biobank zip of short-axis DICOM files to a cine, against pydicom alone.

    python -m benchmarks.dicom

The zip is made first, in a temporary folder. pydicom alone reads every file of the zip and decodes
its pixels: the least that any reader does. The two reads alternate. The ratio is ours over
pydicom's processor time: its median over the repeats, and its range. Target: at most 1.5.
"""

import argparse
import io
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom

from morphojax.data.sources.ukb_dicom import UkbDicom
from tests.data import ukb_zips


def decode(path: Path) -> int:
    """Reads a zip with pydicom alone; returns the number of pixels decoded."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".dcm")]
        return sum(pydicom.dcmread(io.BytesIO(archive.read(n))).pixel_array.size for n in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cine = np.random.default_rng(0).integers(0, 900, (210, 200, 11, 50)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = ukb_zips.write(Path(folder) / "1000017_20209_2_0.zip", ukb_zips.short_axis(cine, ukb_zips.oblique()))
        source, ratios, seconds = UkbDicom(folder), [], []
        for _ in range(options.repeats + 1):
            start = time.process_time()
            assert decode(path) == cine.size
            middle = time.process_time()
            read = source.cines("1000017", ["sax"], [])
            seconds.append(time.process_time() - middle)
            ratios.append(seconds[-1] / (middle - start))
        assert np.array_equal(read["sax"].volume.raw, cine)
    seconds, ratios = seconds[1:], ratios[1:]  # the first read warms caches
    print(
        f"{cine.shape[2]} slices x {cine.shape[3]} frames: {statistics.median(seconds):.2f} s; ours / pydicom "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), processor time"
    )


if __name__ == "__main__":
    main()
