"""Texts and times in a form that every database can store, so that no batch ever fails because of its content.

Enters: any text or time of a record. Leaves: a value that both PostgreSQL and ClickHouse accept. Guaranteed: `original(storable(x)) == x`;
different texts stay different; ordinary texts and times do not change.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

# PostgreSQL's text cannot hold U+0000. U+2400, its symbol, is the escape character: U+2400 U+0030 is a NUL, U+2400 U+2400 is a U+2400.
_ESCAPE = "\u2400"
_PAIR = re.compile(_ESCAPE + "([0" + _ESCAPE + "])")

# A b-tree entry of PostgreSQL has at most 2,704 bytes, and our widest key has three columns.
KEY_BYTES = 512

# The range of ClickHouse's DateTime64(3), in Unix milliseconds. PostgreSQL's is wider, but one rule for both is simpler.
EARLIEST = -2_208_988_800_000  # 1900-01-01 00:00:00.000 UTC
LATEST = 10_413_791_999_999  # 2299-12-31 23:59:59.999 UTC


def storable(text: str) -> str:
    """The text with U+0000 escaped; `original` undoes it."""
    if "\x00" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE * 2).replace("\x00", _ESCAPE + "0")
    return text


def original(text: str) -> str:
    """The text that `storable` was given."""
    if _ESCAPE not in text:
        return text
    return _PAIR.sub(lambda pair: "\x00" if pair[1] == "0" else _ESCAPE, text)


def storable_json(value: Any) -> Any:
    """JSON in which every text is storable, field names included; `original_json` undoes it."""
    return _mapped(value, storable)


def original_json(value: Any) -> Any:
    """The JSON that `storable_json` was given."""
    return _mapped(value, original)


def _mapped(value: Any, convert: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return convert(value)
    if isinstance(value, dict):
        return {convert(name): _mapped(inner, convert) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mapped(inner, convert) for inner in value]
    return value


def key(text: str) -> str:
    """The text for a key column: storable; a text that is too long for an index becomes its beginning and a digest."""
    text = storable(text)
    if len(text) * 4 <= KEY_BYTES or len(text.encode()) <= KEY_BYTES:
        return text
    return f"{text[:100]}~{hashlib.sha256(text.encode()).hexdigest()}"


def are_storable(texts: list[str]) -> bool:
    """Whether `storable` changes none of them."""
    together = "".join(texts)
    return "\x00" not in together and _ESCAPE not in together


def are_keys(texts: list[str]) -> bool:
    """Whether `key` changes none of them. False also for a text of many bytes that is short enough."""
    return are_storable(texts) and max(map(len, texts), default=0) * 4 <= KEY_BYTES


def held(at: int) -> int:
    """A time in Unix milliseconds, limited to the range of both databases."""
    return min(max(at, EARLIEST), LATEST)


def are_held(times: list[int]) -> bool:
    """Whether `held` changes none of them."""
    return not times or (min(times) >= EARLIEST and max(times) <= LATEST)
