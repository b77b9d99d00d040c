"""The folder that holds `configs` and `analysis`: the source tree, or inside an installed package
`morphojax/bundled`.
"""

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "configs" / "pretrain_sax.py").is_file() else _PACKAGE / "bundled"
CONFIGS = ROOT / "configs"


def make_importable() -> None:
    """Makes `configs` and `analysis` importable, here and in child processes, from any folder.

    ROOT comes last in the path: a user's own `configs` in the current folder has precedence.
    """
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    before = os.environ.get("PYTHONPATH", "")
    if str(ROOT) not in before.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (before, str(ROOT))))
