"""Configs by file name, and overrides of their keys."""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from analysis.study.errors import StudyError


def load(name: str) -> ml_collections.ConfigDict:
    """The locked config of `FILE.py` or `FILE.py:ARM`, as `--config` of morphojax.main takes it.

    Raises StudyError where the file, or the arm in it, does not exist.
    """
    file, colon, arm = name.partition(".py:")
    path = Path(f"{file}.py" if colon else file)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise StudyError(f"config {name!r}: there is no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        config = module.get_config(*([arm] if colon else []))
    except (TypeError, ValueError) as error:  # no arm, or an unknown one
        raise StudyError(f"config {name!r}: {error}") from error
    return config.lock()


def override(config: ml_collections.ConfigDict, values: Mapping[str, Any], owner: str) -> None:
    """Sets dotted keys. Raises StudyError, naming the owner of the value, for an unknown key or a
    value of another type.
    """
    for key, value in values.items():
        try:
            if isinstance(_get(config, key), ml_collections.ConfigDict):
                raise StudyError(f"{owner}: {key} is a group of keys; name one of them")
            config.update_from_flattened_dict({key: value})
        except (KeyError, AttributeError):
            raise StudyError(f"{owner}: the config has no key {key}") from None
        except (TypeError, ValueError) as error:
            raise StudyError(f"{owner}: {key}={value!r}: {error}") from error


def parse(flag: str) -> dict[str, Any]:
    """Key and value of a flag `--config.KEY=VALUE`. Raises StudyError."""
    key, equals, text = flag.removeprefix("--config.").partition("=")
    if not flag.startswith("--config.") or not equals:
        raise StudyError(f"unknown argument {flag!r}; keys of the config are set as --config.KEY=VALUE")
    try:
        return {key: ast.literal_eval(text)}
    except (ValueError, SyntaxError):
        return {key: text}


def _get(config: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(config, ml_collections.ConfigDict):
            raise KeyError(key)
        config = config[name]
    return config


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested mappings. An empty mapping yields nothing."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{key}.")
        else:
            yield key, value


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
