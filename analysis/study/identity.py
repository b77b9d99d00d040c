"""What a run depends on, as a digest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morphojax.data.json_text import flat


def identity(config: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    """A digest of all that a run depends on: its config without the keys of `without`, and the
    content of the lists of subjects that it names.
    """
    values = {key: value for key, value in sorted(flat(config)) if key not in without}
    lists = {
        path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for key, paths in values.items()
        if key.rpartition(".")[2] == "subjects"
        for path in paths
        if Path(path).is_file()
    }
    return hashlib.sha256(json.dumps([values, lists], default=str).encode()).hexdigest()[:16]
