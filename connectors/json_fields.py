"""Typed access to a provider's JSON: each function returns the type it names or raises Unexpected, nothing else.

What enters: decoded JSON of unknown shape. What leaves: texts, numbers, objects and lists. Guaranteed: texts are valid Unicode (`decode`
replaces a lone surrogate, which JSON can have and UTF-8 cannot, by U+FFFD); an error names the field, never its value.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson

Node = Mapping[str, Any]
_LONG = 2**63


class Unexpected(ValueError):
    """A field is missing or has another type; the text names the field."""


def decode(body: bytes) -> object:
    """The JSON value, None when the bytes are no JSON. Raises nothing."""
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:  # orjson refuses a whole body for one lone surrogate, but the other items of such a body are good
        return _mended(json.loads(body))
    except (ValueError, RecursionError):
        return None


def node(value: object, name: str) -> Node:
    if not isinstance(value, dict):
        raise Unexpected(f"{name} is not an object")
    return value


def child(parent: Node, name: str) -> Node:
    return node(parent.get(name), name)


def items(parent: Node, name: str) -> list[object]:
    """The list in a field, empty when the field is missing."""
    value = parent.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unexpected(f"{name} is not a list")
    return value


def text(parent: Node, name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str) or not value:
        raise Unexpected(f"{name} is not a text")
    return value


def optional_text(parent: Node, name: str) -> str | None:
    """A text that may be missing. A value of another type counts as missing: the item around it is not lost."""
    value = parent.get(name)
    return value if isinstance(value, str) and value else None


def optional_whole(parent: Node, name: str) -> int | None:
    """A whole number that may be missing. A value of another type counts as missing."""
    try:
        return whole(parent, name)
    except Unexpected:
        return None


def whole(parent: Node, name: str) -> int:
    """A whole number of 64 bits. Digits in a text are accepted: Meta writes times so."""
    value = parent.get(name)
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdecimal() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -_LONG <= value < _LONG:
        raise Unexpected(f"{name} is not a whole number")
    return value


def seconds_as_ms(parent: Node, name: str) -> int:
    """Unix seconds as Unix milliseconds. A time outside the years 1970 to 9999 raises Unexpected."""
    seconds = whole(parent, name)
    if not 0 <= seconds < 253_402_300_800:
        raise Unexpected(f"{name} is not a time")
    return seconds * 1000


def milliseconds(parent: Node, name: str, otherwise: int) -> int:
    """Unix milliseconds in the years 1970 to 9999; `otherwise` when the field is missing."""
    at = otherwise if parent.get(name) is None else whole(parent, name)
    if not 0 <= at < 253_402_300_800_000:
        raise Unexpected(f"{name} is not a time")
    return at


def number(parent: Node, name: str) -> float:
    """A finite number."""
    value = parent.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise Unexpected(f"{name} is not a number")
    return float(value)


def word(value: object) -> str:
    """A provider's short name for a kind of thing, safe for a log: letters, digits, `_`; `?` for any other value."""
    short = isinstance(value, str) and len(value) <= 40 and value.isascii() and value.replace("_", "a").isalnum()
    return str(value) if short else "?"


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value
