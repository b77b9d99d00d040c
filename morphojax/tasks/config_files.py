"""Configs by name or file, and the values of their keys from the command line."""

import ast
import difflib
import importlib.util
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from morphojax import shipped
from morphojax.data.errors import NamedError

PREFIX = "--config."


class ConfigError(NamedError):
    """A config that does not exist or cannot be read, or a wrong key or value. The message says
    what to do.
    """


def load(name: str) -> ml_collections.ConfigDict:
    """The locked config of a file `FILE.py`, or of a shipped config by its name, such as
    pretrain_sax; in both cases `NAME:ARM` passes the arm to the config.

    A relative file is looked for in the current folder, then among the shipped ones. Raises
    ConfigError where there is no such config or arm, or its code fails.
    """
    path, arm = find(name)
    shipped.make_importable()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([] if arm is None else [arm]))
    except (TypeError, ValueError) as error:  # no arm, or an unknown one
        raise ConfigError(f"--config={name}: {error}") from error
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"--config={name}: {type(error).__name__} in {line.filename}, line {line.lineno}: {error}"
        ) from error
    return config.lock()


def find(name: str) -> tuple[Path, str | None]:
    """The file of a config, and the arm after the colon. Raises ConfigError as `load`."""
    text, colon, arm = name.partition(".py:") if ".py:" in name else name.partition(":")
    if text.endswith(".py") or ".py:" in name:
        path = Path(f"{text.removesuffix('.py')}.py")
        candidates = [path, shipped.ROOT / path]
    else:
        candidates = [shipped.CONFIGS / f"{text}.py"]
    for path in candidates:
        if path.is_file():
            return path, arm if colon else None
    close = difflib.get_close_matches(Path(text).stem, shipped_names(), 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"--config={name}: there is no such config{hint} (`morphojax configs` lists those that exist)")


def shipped_names() -> list[str]:
    return sorted(path.stem for path in shipped.CONFIGS.glob("*.py") if path.stem != "__init__")


def override(config: ml_collections.ConfigDict, values: Mapping[str, Any], owner: str) -> None:
    """Sets dotted keys. Raises ConfigError, naming the owner of the value, for an unknown key or a
    value of another type.
    """
    for key, value in values.items():
        if isinstance(now := get(config, key, owner), ml_collections.ConfigDict):
            raise ConfigError(f"{owner}: {key} is a group of keys; name one of {', '.join(now)}")
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{owner}: {key}={value!r}: {error}") from error


def get(config: ml_collections.ConfigDict, key: str, owner: str) -> Any:
    """The value of a dotted key. Raises ConfigError, with the nearest key, where there is none."""
    value: Any = config
    for depth, name in enumerate(words := key.split(".")):
        known = list(value) if isinstance(value, ml_collections.ConfigDict) else []
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {'.'.join([*words[:depth], close[0], *words[depth + 1 :]])}?" if close else ""
            raise ConfigError(f"{owner}: the config has no key {key}{hint}")
        value = value[name]
    return value


def override_from_flags(config: ml_collections.ConfigDict, flags: Sequence[str]) -> None:
    """Sets keys from flags `--config.KEY=VALUE`, each parsed as the type that the key has.

    A bool is true or false; a tuple is a Python literal, or its items with commas between them.
    Raises ConfigError, naming the flag.
    """
    for flag in flags:
        key, equals, text = flag.removeprefix(PREFIX).partition("=")
        if not flag.startswith(PREFIX) or not equals:
            raise ConfigError(f"unknown argument {flag!r}; keys of the config are set as {PREFIX}KEY=VALUE")
        owner = f"{PREFIX}{key}"
        override(config, {key: _parse(text, get(config, key, owner), owner)}, owner)


def _parse(text: str, now: Any, owner: str) -> Any:
    """The text as a value of the type of `now`."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    try:
        if isinstance(now, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(now, (int, float)):
            return type(now)(text)
        if isinstance(now, (tuple, list)):
            return tuple(_items(text, type(now[0]) if now else str))
        return text
    except (ValueError, KeyError):
        raise ConfigError(f"{owner}={text}: give {kinds.get(type(now), 'values with commas between them')}") from None


def _items(text: str, kind: type) -> Iterable[Any]:
    try:
        literal = ast.literal_eval(text) if text[:1] in ("(", "[", "'", '"') else None
    except (ValueError, SyntaxError):
        raise ValueError(text) from None
    if literal is not None:
        return literal if isinstance(literal, (tuple, list)) else (literal,)
    return [kind(word.strip()) for word in text.split(",") if word.strip()]
