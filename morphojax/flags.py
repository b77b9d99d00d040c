"""What all commands share: their parser, flags of a checkpoint, and how errors end them."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from morphojax import interrupts
from morphojax.data.errors import printable
from morphojax.exit_codes import FAILED, INTERRUPTED, REFUSED
from morphojax.train.choices import ALL, CHECKPOINTS, WEIGHTS

# Errors of the operating system that name a wrong flag. Others, such as a full disk, may pass.
_REFUSED = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def make_parser(command: str, doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser of `morphojax COMMAND`, whose help is the module's docstring: its first line, the
    flags, the rest.
    """
    description, epilog = (doc or "").split("\n\n", 1)
    return argparse.ArgumentParser(
        f"morphojax {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def run(module: str, args: argparse.Namespace) -> int:
    """The exit code of `run(args)` of a module, which is imported here so that --help answers at
    once.
    """
    return guard(lambda: importlib.import_module(module).run(args))


def guard(work: Callable[[], int]) -> int:
    """The exit code of a command's work, or of its error, which is printed as one line.

    Errors of the package that a user can mend are ValueErrors.
    """
    try:
        with interrupts.watched():
            return work()
    except KeyboardInterrupt:
        interrupts.end_children()
        print(interrupts.KEPT, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # of `morphojax inspect DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return REFUSED if isinstance(error, (ValueError, *_REFUSED)) else FAILED


def add_checkpoint(
    parser: argparse.ArgumentParser,
    default: str | None = "best",
    help_default: str = "best",
    ensembles: bool = False,
) -> None:
    """Adds --checkpoint and --weights.

    Args:
        default: of --checkpoint; None where the command chooses by the kind of run.
        help_default: how --help describes that default.
        ensembles: whether --checkpoint may be `all`.
    """
    every = ", or all that are kept, as members of an ensemble" if ensembles else ""
    parser.add_argument(
        "--checkpoint",
        default=default,
        choices=(*CHECKPOINTS, ALL) if ensembles else CHECKPOINTS,
        help=f"the best by validation score, or the last{every} (default: {help_default})",
    )
    parser.add_argument(
        "--weights",
        default="model",
        choices=WEIGHTS,
        help="`model`: as the optimizer left them; `ema`: their exponential moving average, "
        "which a run with config.ema.decay above 0 keeps (default: model)",
    )


def add_largest_component(parser: argparse.ArgumentParser) -> None:
    """Adds --largest_component and --no-largest_component."""
    parser.add_argument(
        "--largest_component",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep only the largest connected component of every structure of a stack (default: yes)",
    )
