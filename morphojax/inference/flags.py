"""Command lines: the parser of a command, and flags shared by those that read a checkpoint."""

import argparse
from typing import Any

from morphojax.train.checkpoint import WEIGHTS

CHECKPOINTS = ("best", "last")


def make_parser(program: str, doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring: its first line, the flags, the rest."""
    description, epilog = (doc or "").split("\n\n", 1)
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(program, description=description, epilog=epilog, formatter_class=raw, **options)


def add_checkpoint(parser: argparse.ArgumentParser, default: str | None = "best", help_default: str = "best") -> None:
    """Adds --checkpoint and --weights.

    Args:
        default: of --checkpoint; None where the command chooses by the kind of run.
        help_default: how --help describes that default.
    """
    parser.add_argument(
        "--checkpoint",
        default=default,
        choices=CHECKPOINTS,
        help=f"the best by validation score, or the last (default: {help_default})",
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
