"""Segments NIfTI images with a run: writes labels with the geometry of the images, and measures.

    python -m morphojax.predict --run=runs/segment_sax --input=DIR --output=DIR

--input is a file, or a folder that is searched for .nii and .nii.gz files. Each file is a stack
[X, Y, Z] or a cine [X, Y, Z, T], of which every frame is segmented. The labels go to --output,
under the same relative names, with
    volumes.csv    a row per frame: the size of every structure, in mL in the short axis, in cm2 in
                   a long-axis plane
    measures.csv   a row of clinical measures per heart. A heart is a cine, or the files of one
                   folder whose names differ only in _ED and _ES, or in _frameNN. A single stack
                   gives the size of every structure
ED and ES are found by name (_ED, _ES). Otherwise they are the frames with the largest and the
smallest LV cavity; without an LV, with the smallest and the largest atrium.
A file that cannot be used is reported and left out; the exit code is then 1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax import anatomy
from morphojax.inference.files import PredictError, choose_plane, find_inputs, predict_files
from morphojax.inference.flags import add_checkpoint, add_largest_component, make_parser
from morphojax.inference.segmenter import load_run
from morphojax.train.checkpoint import CheckpointError
from morphojax.train.run import RunError


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("morphojax.predict", __doc__)
    parser.add_argument("--run", required=True, help="directory of a segmentation run")
    parser.add_argument("--input", required=True, help="a NIfTI file, or a folder of them")
    parser.add_argument("--output", required=True, help="folder for labels and measures")
    parser.add_argument(
        "--plane", choices=anatomy.PLANES, help="plane of the images (default: that of the run, if it has only one)"
    )
    parser.add_argument("--pattern", default="*", help="names in the folder to segment, e.g. 'sa_*' (default: all)")
    parser.add_argument(
        "--labels", default="canonical", choices=sorted(anatomy.CONVENTIONS), help="label numbers on disk"
    )
    add_checkpoint(parser)
    add_largest_component(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files in --output")
    args = parser.parse_args(argv)
    source, output = Path(args.input), Path(args.output)
    try:
        run = load_run(args.run, args.checkpoint, args.weights, largest_component=args.largest_component)
        plane = choose_plane(run, args.plane)
        paths, notes = find_inputs(source, plane, args.pattern)
        print("\n".join(notes), end="\n" if notes else "")
        problems, of_files = predict_files(run, plane, paths, source, output, args.labels, args.overwrite)
    except (RunError, CheckpointError, PredictError, ValueError, OSError) as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    print(f"{len(paths) - len(problems)} of {len(paths)} files segmented, written to {output}")
    print("\n".join(f"note: {note}" for note in of_files), end="\n" if of_files else "")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
