"""Mutations of bytes, texts and JSON, drawn from a `random.Random`: a seed gives one result."""

import json
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutate = Callable[[Random, bytes], bytes]  # a file's bytes -> the changed ones

TOKENS = (
    "", ",", ";", "\t", '"', "'", "\n", "\r", "\r\n", ": ", "=", " ", "\x00", "\x1b[31m", "\ufeff", "0", "-1", "1e3",
    "1e400", "nan", "inf", "9" * 400, "9" * 5000, "0x10", "1_000", "٣", "²", "½", "é", "\U0001f600", "../x", "/etc",
    "=1+1", "a" * 300, "true", "None",
)  # fmt: skip
XML_TOKENS = (
    "<", ">", "</", "/>", "&", "&a;", "&#0;", "&#x110000;", "<!--", "-->", 'Hash:key="', "<Point:x>", "<![CDATA[",
    "<!DOCTYPE a>", '<!ENTITY a "b">', "<?xml encoding='utf-16'?>", "1e999", "-1e9",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 1e-300, 1e300, math.inf, math.nan, "", "x", "0",
    "a" * 1000, "\x00", "\n", "../../x", "\ud800", [], {}, [0], [[]], {"a": 1}, [None] * 3,
)  # fmt: skip
NUMBERS = (0.0, -0.0, -1.0, 1.0, 1e-3, 1e3, 1e-30, 1e30, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan)
DEEP = 100_000  # levels of a nested text


def bits(draw: Random, data: bytes) -> bytes:
    """The bytes flipped, set, inserted, removed, repeated or cut: one to four such changes."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at, length = draw.randrange(len(out) + 1), draw.choice((1, 1, 2, 4, 16, 100))
        kind = draw.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            out[at : at + length] = bytes([draw.choice((0, 1, 127, 128, 255))]) * len(out[at : at + length])
        elif kind == 2:
            out[at:at] = draw.randbytes(length)
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:  # a piece of the file at another place
            start = draw.randrange(len(out) + 1)
            out[at : at + length] = out[start : start + length]
        elif kind == 5:
            out[at : at + length] = draw.randbytes(len(out[at : at + length]))
        elif draw.random() < 0.3:
            del out[at:]
    return bytes(out)


def text(*more: str) -> Mutate:
    """A mutation of a text: cells, words and lines changed, moved, repeated or removed.

    more: tokens of the format, besides TOKENS.
    """

    def mutate(draw: Random, data: bytes) -> bytes:
        if draw.random() < 0.2:
            return encoded(draw, bits(draw, data))
        out = data.decode(errors="replace")
        for _ in range(draw.choice((1, 1, 2, 4))):
            at, lost = draw.randrange(len(out) + 1), draw.choice((0, 0, 1, 2, 8))
            kind = draw.randrange(5)
            lines = out.splitlines(keepends=True) or [""]
            if kind == 0:  # a line is repeated, moved or removed
                line = lines.pop(draw.randrange(len(lines)))
                places = [draw.randrange(len(lines) + 1) for _ in range(draw.randrange(3))]
                for place in places:
                    lines.insert(place, line)
                out = "".join(lines)
            elif kind == 1:
                out = _replaced_word(draw, out, (*TOKENS, *more))
            else:
                out = out[:at] + draw.choice((*TOKENS, *more)) + out[at + lost :]
        return encoded(draw, out.encode(errors="surrogatepass"))

    return mutate


def _replaced_word(draw: Random, out: str, tokens: Sequence[str]) -> str:
    """A text with one of its words, between separators, replaced by a token or another word."""
    ends = [i for i, c in enumerate(out) if c in ',;\t\n:"<>= ']
    if len(ends) < 2:
        return out
    i, j = draw.randrange(len(ends) - 1), draw.randrange(len(ends) - 1)
    new = draw.choice((draw.choice(tokens), out[ends[j] + 1 : ends[j + 1]]))
    return out[: ends[i] + 1] + new + out[ends[i + 1] :]


def encoded(draw: Random, data: bytes) -> bytes:
    """Rarely: the text in another encoding, with a mark of its order of bytes, or repeated."""
    kind = draw.randrange(60)
    if kind == 0:
        return data.decode(errors="replace").encode("utf-16", errors="replace")
    if kind == 1:
        return data.decode(errors="replace").encode("latin-1", errors="replace")
    if kind == 2:
        return b"\xef\xbb\xbf" + data
    if kind == 3:
        return data * 2
    return data


def json_text(draw: Random, data: bytes) -> bytes:
    """A JSON text with one to three of its values replaced, removed, renamed or nested deeply."""
    kind = draw.random()
    if kind < 0.2:
        return bits(draw, data)
    if kind < 0.25:
        return b"[" * DEEP
    if kind < 0.28:
        return json.dumps(draw.choice(VALUES)).encode()
    state = json.loads(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        state = _changed(draw, state)
    dumped = json.dumps(state, indent=draw.choice((None, 1)))
    return dumped.replace('"__huge__"', "9" * 5000).encode(errors="surrogatepass")


def _changed(draw: Random, state: Any) -> Any:
    places = list(_places(state))
    if not places:
        return draw.choice(VALUES)
    parent, key = draw.choice(places)
    kind = draw.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[draw.choice(("", "x", key + "s", key.upper()))] = parent.pop(key)
    elif kind == 2:
        other, there = draw.choice(places)
        parent[key] = json.loads(json.dumps(other[there]))
    elif kind == 3 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif kind == 4:
        parent[key] = [parent[key]]
    elif kind == 5 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = draw.choice((-parent[key], parent[key] * 1000, parent[key] + 0.5, str(parent[key]), "__huge__"))
    else:
        parent[key] = json.loads(json.dumps(draw.choice(VALUES)))
    return state


def _places(state: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or position) of a JSON value."""
    keys = list(state) if isinstance(state, dict) else list(range(len(state))) if isinstance(state, list) else []
    return [(state, key) for key in keys] + [place for key in keys for place in _places(state[key])]
