"""Segments NIfTI files with a run."""

import argparse
import sys
from pathlib import Path

from morphojax.exit_codes import COMPLETE, FAILED
from morphojax.inference import viewer
from morphojax.inference.files import choose_plane, find_inputs, predict_files
from morphojax.inference.segmenter import load_run


def run(args: argparse.Namespace) -> int:
    source, output = Path(args.input), Path(args.output)
    if args.view:
        viewer.check(output, args.overwrite)
    loaded = load_run(args.run, args.checkpoint, args.weights, largest_component=args.largest_component)
    plane = choose_plane(loaded, args.plane)
    paths, notes = find_inputs(source, plane, args.pattern)
    print("\n".join(notes), end="\n" if notes else "")
    problems, of_files = predict_files(loaded, plane, paths, source, output, args.labels, args.overwrite)
    print(f"{len(paths) - len(problems)} of {len(paths)} files segmented, written to {output}")
    print("\n".join(f"note: {note}" for note in of_files), end="\n" if of_files else "")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if args.view:
        page = viewer.write_pages(output, paths, source, loaded.structures_of(plane), args.labels)
        print(f"view: open {page.resolve()} in a browser")
    return FAILED if problems else COMPLETE
