"""One command for everything: `morphojax COMMAND`. It imports only the chosen command."""

import dataclasses
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from morphojax import __version__, interrupts, shipped
from morphojax.exit_codes import COMPLETE, INTERRUPTED, REFUSED


@dataclasses.dataclass(frozen=True)
class Command:
    """module: has a function main(argv) -> exit code, and a function parser()."""

    module: str
    summary: str


GROUPS: dict[str, dict[str, Command]] = {
    "data": {
        "prepare": Command("morphojax.prepare", "make a dataset from a raw cohort, once per cohort"),
        "inspect": Command("morphojax.inspect", "report what a cohort or dataset holds, and what looks suspicious"),
        "exclude": Command("morphojax.exclude", "remove subjects who withdrew from a dataset"),
        "pseudonyms": Command("morphojax.pseudonyms", "translate ids of subjects to the names in a dataset"),
    },
    "runs": {
        "configs": Command("morphojax.configs", "list the shipped configs, or the keys of one"),
        "train": Command("morphojax.main", "train the task of a config: pretraining, segmentation or a probe"),
        "evaluate": Command("morphojax.evaluate", "score a segmentation run on a split of its dataset"),
        "report": Command("morphojax.report", "report evaluated runs, or put them side by side, in one HTML file"),
        "predict": Command("morphojax.predict", "segment NIfTI files with a run, and measure them"),
        "probe": Command("morphojax.probe", "predict a column of the table from a run's image encoder"),
        "export": Command("morphojax.export", "write a run to publish it, or its encoder for the transformers library"),
    },
    "studies": {
        "study": Command("analysis.study.__main__", "plan, run, resume and report a matrix of runs"),
        "attribution": Command("analysis.attribution.__main__", "measure which columns and regions a pretraining uses"),
        "dynamics": Command("analysis.dynamics.__main__", "draw how weights, features and scores of runs changed"),
    },
    "shell": {"completion": Command("morphojax.completion", "print completion code for bash or zsh")},
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
EXAMPLES = """\
examples:
  morphojax train --config=pretrain_sax                                    on the embedded synthetic cohort
  morphojax train --config=segment_sax --config.init_from=runs/pretrain_sax
  morphojax evaluate --run=runs/segment_sax
  morphojax predict --run=runs/segment_sax --input=DIR --output=DIR
  morphojax COMMAND --help

exit codes: 0 complete, 1 failed, 2 refused: the command line must be changed"""


def help_text() -> str:
    lines = [
        f"morphojax {__version__}: pretraining on cardiac MRI and biobank tables, segmentation from images alone",
        "",
        "usage: morphojax COMMAND [flags]",
    ]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:12} {command.summary}" for name, command in commands.items())]
    return "\n".join([*lines, "", EXAMPLES])


def main(argv: Sequence[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        return COMPLETE
    if name == "--version":
        print(f"morphojax {__version__}")
        return COMPLETE
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "`morphojax --help` lists them"
        print(f"error: there is no command {name!r}; {hint}", file=sys.stderr)
        return REFUSED
    shipped.make_importable()
    try:
        return importlib.import_module(COMMANDS[name].module).main(rest)
    except KeyboardInterrupt:  # while a module is imported; later `flags.guard` meets it
        print(interrupts.KEPT, file=sys.stderr)
        return INTERRUPTED


def script() -> None:
    """The installed command."""
    code = main()
    if code == INTERRUPTED:  # JAX's threads may still compute, and crash in an orderly exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
