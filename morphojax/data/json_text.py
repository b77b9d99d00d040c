"""JSON that may be damaged: parsed, and compared with the structure that its reader expects.

A structure is written as a value of the same form:
    str, bool, int, float   a value of that type; a whole number is a float, true is no number, and
                            neither NaN nor infinity nor half a character is a value
    object                  anything
    [shape]                 a list of such values
    {str: shape}            a mapping of any names to such values
    {"name": shape}         a mapping with these names and perhaps others; "name?" may be absent
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

Shape = Any
_MOST_INTEGER = 2**63
_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def parse(text: str | bytes, shape: Shape = object) -> Any:
    """The value of a JSON text. Raises ValueError for a damaged one, and for another structure."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if found := problem(value, shape):
        raise ValueError(found)
    return value


def problem(value: Any, shape: Shape, name: str = "") -> str | None:
    """How a value differs from a structure, in words; None where it does not.

    name: of the value, for the words.
    """
    at = f"{name} " if name else "the content "
    if shape is object:
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at}must be a list"
        return next((p for i, v in enumerate(value) if (p := problem(v, shape[0], f"{name}[{i}]"))), None)
    if isinstance(shape, dict):
        return _mapping_problem(value, shape, name)
    return None if _is(value, shape) else f"{at}must be {_WORDS[shape]}"


def _mapping_problem(value: Any, shape: dict[Any, Shape], name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name or 'the content'} must be an object with names"
    for key, inner in shape.items():
        if key is str:
            parts = value
        elif key.removesuffix("?") in value:
            parts = [key.removesuffix("?")]
        elif key.endswith("?"):
            continue
        else:
            return f"{name or 'the content'} lacks {key!r}"
        for part in parts:
            if not _is(part, str):
                return f"{name or 'the content'} has a damaged name"
            if found := problem(value[part], inner, f"{name}.{part}" if name else part):
                return found
    return None


def _is(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < _MOST_INTEGER


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested mappings. An empty mapping yields nothing."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{key}.")
        else:
            yield key, value
