"""Segments NIfTI images with a run: writes labels with the geometry of the images, and measures.

    morphojax predict --run=runs/segment_sax --input=DIR --output=DIR

--input is a file, or a folder that is searched for .nii and .nii.gz files. Each file is a stack
[X, Y, Z] or a cine [X, Y, Z, T], of which every frame is segmented. The labels go to --output,
under the same relative names, with
    volumes.csv    a row per frame: the size of every structure, in mL in the short axis, in cm2 in
                   a long-axis plane
    measures.csv   a row of clinical measures per heart. A heart is a cine, or the files of one
                   folder whose names differ only in _ED and _ES, or in _frameNN. A single stack
                   gives the size of every structure. The column `quality` is `look` where the
                   labels or the measures are doubtful, and the column `reasons` says why
    view.html      with --view: a list of the hearts, each a page in view/ that shows images and
                   labels in a browser, without network or server
With several --run, or --checkpoint=all, probabilities are averaged over the members of the
ensemble. Both tables then have columns `<structure>_cv_percent`: the coefficient of variation of
the structure's size over the members.
ED and ES are found by name (_ED, _ES). Otherwise they are the frames with the largest and the
smallest LV cavity; without an LV, with the smallest and the largest atrium.
A file that cannot be used is reported and left out; the exit code is then 1. So is an image whose
name or shape says that it shows another plane than the run's: a single slice for a short-axis run,
a name with LAX or 4ch. --plane states what the images show, and such files are then segmented.
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import anatomy, flags


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("predict", __doc__)
    made.add_argument(
        "--run",
        required=True,
        action="append",
        help="directory of a segmentation run; repeat it for an ensemble of runs of the same planes and structures",
    )
    made.add_argument("--input", required=True, help="a NIfTI file, or a folder of them")
    made.add_argument("--output", required=True, help="folder for labels and measures")
    made.add_argument(
        "--plane",
        choices=anatomy.PLANES,
        help="the plane that the images show, whatever their names and shapes say "
        "(default: that of the run, if it has only one; images that contradict it are left out)",
    )
    made.add_argument("--pattern", default="*", help="names in the folder to segment, e.g. 'sa_*' (default: all)")
    made.add_argument(
        "--labels", default="canonical", choices=sorted(anatomy.CONVENTIONS), help="label numbers on disk"
    )
    flags.add_checkpoint(made, ensembles=True)
    flags.add_largest_component(made)
    made.add_argument("--view", action="store_true", help="write pages that show images and labels in a browser")
    made.add_argument("--overwrite", action="store_true", help="replace existing files in --output")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.predict", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
