"""Segments NIfTI images with a run: writes labels with the geometry of the images, and measures.

    morphojax predict --run=runs/segment_sax --input=DIR --output=DIR

--input is a file, or a folder that is searched for .nii and .nii.gz files. Each file is a stack
[X, Y, Z] or a cine [X, Y, Z, T], of which every frame is segmented. The labels go to --output,
under the same relative names, with
    volumes.csv    a row per frame: the size of every structure, in mL in the short axis, in cm2 in
                   a long-axis plane
    measures.csv   a row of clinical measures per heart. A heart is a cine, or the files of one
                   folder whose names differ only in _ED and _ES, or in _frameNN. A single stack
                   gives the size of every structure
    view.html      with --view: a list of the hearts, each a page in view/ that shows images and
                   labels in a browser, without network or server
ED and ES are found by name (_ED, _ES). Otherwise they are the frames with the largest and the
smallest LV cavity; without an LV, with the smallest and the largest atrium.
A file that cannot be used is reported and left out; the exit code is then 1.
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import anatomy, flags


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("predict", __doc__)
    made.add_argument("--run", required=True, help="directory of a segmentation run")
    made.add_argument("--input", required=True, help="a NIfTI file, or a folder of them")
    made.add_argument("--output", required=True, help="folder for labels and measures")
    made.add_argument(
        "--plane", choices=anatomy.PLANES, help="plane of the images (default: that of the run, if it has only one)"
    )
    made.add_argument("--pattern", default="*", help="names in the folder to segment, e.g. 'sa_*' (default: all)")
    made.add_argument(
        "--labels", default="canonical", choices=sorted(anatomy.CONVENTIONS), help="label numbers on disk"
    )
    flags.add_checkpoint(made)
    flags.add_largest_component(made)
    made.add_argument("--view", action="store_true", help="write pages that show images and labels in a browser")
    made.add_argument("--overwrite", action="store_true", help="replace existing files in --output")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("predict", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
