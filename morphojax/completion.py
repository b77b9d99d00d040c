"""Prints code that completes commands and flags in a shell.

eval "$(morphojax completion bash)"                                 # in ~/.bashrc
morphojax completion zsh > ~/.zfunc/_morphojax                      # a folder of $fpath
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from morphojax import flags, shipped
from morphojax.exit_codes import COMPLETE

SHELLS = ("bash", "zsh")


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("completion", __doc__)
    made.add_argument("shell", choices=SHELLS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return flags.guard(lambda: _print(args.shell))


def _print(shell: str) -> int:
    import shtab

    print(shtab.complete(_all_commands(), shell))
    return COMPLETE


def _all_commands() -> argparse.ArgumentParser:
    """One parser of all commands."""
    from morphojax.cli import COMMANDS

    shipped.make_importable()
    made = argparse.ArgumentParser("morphojax")
    made.add_argument("--version", action="store_true", help="print the version")
    commands = made.add_subparsers()
    for name, command in COMMANDS.items():
        of_command = importlib.import_module(command.module).parser()
        commands.add_parser(name, parents=[of_command], add_help=False, help=command.summary)
    return made


if __name__ == "__main__":
    sys.exit(main())
