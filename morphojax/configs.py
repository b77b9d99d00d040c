"""Lists the shipped configs, or shows one.

    morphojax configs
    morphojax configs pretrain_sax
    morphojax configs pretrain_arm:byol

The second and third print the config's page, and all of its keys with their values.
"""

import argparse
import ast
import sys
from collections.abc import Sequence

from morphojax import flags, shipped
from morphojax.exit_codes import COMPLETE


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("configs", __doc__)
    made.add_argument("name", nargs="?", metavar="NAME", help="a shipped config or a file; default: list all")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return flags.guard(lambda: _show(args.name) if args.name else _list())


def _list() -> int:
    """Only reads the files: a config may need an arm."""
    for path in sorted(shipped.CONFIGS.glob("*.py")):
        if path.stem != "__init__":
            page = ast.get_docstring(ast.parse(path.read_text())) or ""
            print(f"{path.stem:24} {' '.join(page.partition(chr(10) * 2)[0].split())}")
    return COMPLETE


def _show(name: str) -> int:
    from morphojax.data import json_text
    from morphojax.tasks import config_files

    path, _ = config_files.find(name)
    config = config_files.load(name)
    print(ast.get_docstring(ast.parse(path.read_text())) or "", end="\n\n")
    for key, value in json_text.flat(config.to_dict()):
        print(f"--config.{key}={value}")
    return COMPLETE


if __name__ == "__main__":
    sys.exit(main())
