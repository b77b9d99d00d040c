"""Reports evaluated runs as one HTML file."""

import argparse
from pathlib import Path

from morphojax.commands.output import OutputError, writable
from morphojax.data.store.records import write_atomically
from morphojax.exit_codes import COMPLETE
from morphojax.reports import evaluated, one, several
from morphojax.reports.document import to_html
from morphojax.train.run import short_names


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.suffix != ".html" or output.is_dir():
        raise OutputError(f"--output={output}: name a file that ends in .html")
    folders = [Path(folder) for folder in args.run]
    named = zip(short_names(folders), folders, strict=True)
    read = {name: evaluated.of_run(folder, args.split) for name, folder in named}
    several.check(read)
    writable(output.parent).mkdir(parents=True, exist_ok=True)
    write_atomically(output, (of_one(*read.values()) if len(read) == 1 else of_several(read)).encode())
    print(f"written to {output}")
    return COMPLETE


def of_one(found: evaluated.Evaluated) -> str:
    return to_html(one.title(found), one.sections(found))


def of_several(found: several.Named) -> str:
    return to_html(several.title(found), several.sections(found))
