"""Segments NIfTI files with a run."""

import argparse
import sys
from pathlib import Path

from morphojax.commands.output import writable
from morphojax.exit_codes import COMPLETE, FAILED
from morphojax.inference import viewer
from morphojax.inference.ensemble import load_ensemble
from morphojax.inference.files import find_inputs, predict_files
from morphojax.inference.planes import choose_plane
from morphojax.train.choices import ALL


def run(args: argparse.Namespace) -> int:
    source, output = Path(args.input), writable(Path(args.output))
    if args.view:
        viewer.check(output, args.overwrite)
    loaded = load_ensemble(args.run, args.checkpoint, args.weights, args.largest_component)
    plane = choose_plane(loaded, args.plane)
    paths, notes = find_inputs(source, plane, args.pattern)
    print("\n".join(notes), end="\n" if notes else "")
    stated = args.plane is not None
    problems, of_files = predict_files(loaded, plane, paths, source, output, args.labels, args.overwrite, stated)
    if args.checkpoint == ALL and not loaded.others:
        of_files.append("the run keeps a single checkpoint, so there is no ensemble and no spread of sizes")
    ensemble = f" by {1 + len(loaded.others)} members of an ensemble" if loaded.others else ""
    print(f"{len(paths) - len(problems)} of {len(paths)} files segmented{ensemble}, written to {output}")
    print("\n".join(f"note: {note}" for note in of_files), end="\n" if of_files else "")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if args.view:
        page = viewer.write_pages(output, paths, source, loaded.structures_of(plane), args.labels)
        print(f"view: open {page.resolve()} in a browser")
    return FAILED if problems else COMPLETE
