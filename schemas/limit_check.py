"""Whether a record's fields are within their limits (schemas/limits.py), in a microsecond or two.

What enters: a record. What leaves: None, or a sentence that names the field and what is allowed, never the value, which may be large.
"""

import dataclasses
import enum
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter, gt, lt
from types import MappingProxyType
from typing import Any, TypeGuard

from schemas import records
from schemas.limits import (
    LIMITS,
    SENTENCE,
    UNLIMITED,
    Labels,
    Limit,
    Many,
    Real,
    Text,
    Whole,
    described,
    limit_of,
    record_in,
)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # C0, DEL and C1
_MARK = " […]"  # what `trimmed` ends a shortened text with
_FRAME = 16  # bytes of a field beyond its own: lengths, a branch of a union, a number
Fault = Callable[[Any], str | None]


def fault(record: records.Record) -> str | None:
    """What is wrong with the first field that is out of its limits; None when all are within."""
    check = _CHECKS.get(type(record))
    return None if check is None else check(record)


def most_bytes(cls: type[Any]) -> int | None:
    """More bytes than any record of the class has whose fields are within their limits; None for one without limits."""
    return _MOST_BYTES.get(cls)


def allows(field: str, value: str | int) -> bool:
    """Whether a value is within the limit of the field of that name."""
    return _ALONE[field](value) is None


def trimmed(said: str, limit: Limit = SENTENCE) -> str:
    """A text that only describes, made to fit and marked where it was cut; a lone surrogate becomes `?`."""
    if not isinstance(limit, Text):
        raise TypeError(f"{limit} is no limit of a text")
    if not limit.any_character:
        said = _CONTROL.sub(" ", said)
    coded = said.encode("utf-8", "replace")
    if len(coded) <= limit.most:
        return coded.decode()
    return coded[: limit.most - len(_MARK.encode())].decode("utf-8", "ignore") + _MARK


# --- what is wrong with one value ---------------------------------------------------------------------------------------------


def _fault_of(limit: Limit) -> Fault:
    match limit:
        case Text():
            return _text(limit)
        case Whole():
            return _whole(limit)
        case Real():
            return lambda value: None if math.isfinite(value) else " is no finite number"
        case Many():
            return _many(limit)
        case Labels():
            return _labels(limit)


def _text(limit: Text) -> Fault:
    matches = re.compile(limit.pattern).fullmatch if limit.pattern else None

    def check(value: str) -> str | None:
        length = len(value)
        if limit.least <= length <= limit.most:  # nothing is encoded that is far too long
            if not value.isascii():
                try:
                    length = len(value.encode())
                except UnicodeEncodeError:
                    return f" holds half of a character (a lone surrogate): {described(limit)}"
            if length <= limit.most:
                return _characters(value, limit, matches)
        return f" has {length} bytes or more: {described(limit)}" if length else f" is empty: {described(limit)}"

    return check


def _characters(value: str, limit: Text, matches: Callable[[str], object] | None) -> str | None:
    if matches is not None:
        return None if matches(value) else f" has other characters: {described(limit)}"
    if limit.any_character or value.isprintable():
        return None
    found = _CONTROL.search(value)
    if found is None:
        return None  # a space of another kind, say
    return f" has the control character U+{ord(found[0]):04X} at place {found.start()}: {described(limit)}"


def _whole(limit: Whole) -> Fault:
    def check(value: int) -> str | None:
        return None if limit.least <= value <= limit.most else f" is {_short(value)}: {described(limit)}"

    return check


def _short(value: int) -> str:
    return str(value) if abs(value) < 1 << 64 else "beyond 64 bits"


def _many(limit: Many) -> Fault:
    each = None if limit.each is None else _text(limit.each)

    def check(value: tuple[Any, ...]) -> str | None:
        if len(value) > limit.most:
            return f" has {len(value)} items: {described(limit)}"
        if each is None:
            return None
        for number, item in enumerate(value):
            found = each(item)
            if found is not None:
                return f"[{number}]{found}"
        if limit.together is not None:
            size = sum(len(item.encode()) for item in value)
            if size > limit.together:
                return f" has {size} bytes in all: {described(limit)}"
        return None

    return check


def _labels(limit: Labels) -> Fault:
    of_key, of_value = _text(limit.key), _text(limit.value)

    def check(value: Mapping[str, str]) -> str | None:
        if not value:
            return None
        if len(value) > limit.most:
            return f" has {len(value)} labels: {described(limit)}"
        for number, (key, said) in enumerate(value.items()):
            found = of_key(key)
            if found is not None:
                return f", key {number},{found}"
            found = of_value(said)
            if found is not None:
                return f"[{key!r}]{found}"
        return None

    return check


# --- one function for each class ------------------------------------------------------------------------------------------------


def _of_class(cls: type[Any]) -> Fault:
    """Checks field by field. What nearly every record is, short ASCII and sane numbers, is found out for all such fields at once."""
    texts = [(name, limit) for name, limit, hint in _fields(cls) if hint is str and _is_plain(limit)]
    numbers = [(name, limit) for name, limit, hint in _fields(cls) if hint is int and isinstance(limit, Whole)]
    slow = _exact(cls, set())
    if len(texts) < 2:
        return slow
    numbers = numbers if len(numbers) > 1 else []
    texts_of = attrgetter(*(name for name, _ in texts))
    numbers_of = attrgetter(*(name for name, _ in numbers)) if numbers else _none
    shortest, longest = [limit.least for _, limit in texts], [limit.most for _, limit in texts]
    least, most = [limit.least for _, limit in numbers], [limit.most for _, limit in numbers]
    rest = _exact(cls, {name for name, _ in texts} | {name for name, _ in numbers})

    def check(record: Any) -> str | None:
        values, counts = texts_of(record), numbers_of(record)
        joined = "".join(values)
        lengths = [*map(len, values)]
        if (
            joined.isascii()
            and joined.isprintable()
            and True not in map(gt, lengths, longest)
            and True not in map(lt, lengths, shortest)
            and True not in map(gt, counts, most)
            and True not in map(lt, counts, least)
        ):
            return rest(record)
        return slow(record)

    return check


def _none(_: Any) -> tuple[int, ...]:
    return ()


def _exact(cls: type[Any], without: set[str]) -> Fault:
    checks = [
        (f"{cls.__name__}.{name}", attrgetter(name), found)
        for name, limit, hint in _fields(cls)
        if name not in without and (found := _of_field(limit, hint)) is not None
    ]

    def check(record: Any) -> str | None:
        for name, get, of_field in checks:
            value = get(record)
            if value is not None:
                why = of_field(value)
                if why is not None:
                    return name + why
        return None

    return check


def _of_field(limit: Limit | None, hint: Any) -> Fault | None:
    own = None if limit is None else _fault_of(limit)
    nested = record_in(hint)
    if nested is None:
        return own
    inner = _of_class(nested)
    if own is None:
        return lambda value: _inside(inner(value))
    return _items(own, inner)


def _items(own: Fault, inner: Fault) -> Fault:
    def check(items: tuple[Any, ...]) -> str | None:
        found = own(items)
        if found is not None:
            return found
        for number, item in enumerate(items):
            found = inner(item)
            if found is not None:
                return f"[{number}]{_inside(found)}"
        return None

    return check


def _inside(found: str | None) -> str | None:
    """The sentence of a nested record without its class: `.url has ...`."""
    return None if found is None else found[found.index(".") :]


def _is_plain(limit: Limit | None) -> TypeGuard[Text]:
    return isinstance(limit, Text) and not limit.any_character and limit.pattern is None


def _fields(cls: type[Any]) -> Iterator[tuple[str, Limit | None, Any]]:
    hints = typing.get_type_hints(cls)
    return ((field.name, limit_of(cls.__name__, field.name), hints[field.name]) for field in dataclasses.fields(cls))


def _size(cls: type[Any]) -> int:
    return _FRAME + sum(_FRAME + _size_of(limit, hint) for _, limit, hint in _fields(cls))


def _size_of(limit: Limit | None, hint: Any) -> int:
    nested = record_in(hint)
    match limit:
        case Text():
            return limit.most
        case Labels():
            return limit.most * (limit.key.most + limit.value.most + _FRAME)
        case Many(each=None):
            return limit.most * (0 if nested is None else _size(nested))
        case Many(each=Text() as each):
            return limit.most * _FRAME + (limit.together or limit.most * each.most)
    if nested is not None:
        return _size(nested)
    return 64 if isinstance(hint, type) and issubclass(hint, enum.StrEnum) else 0


_LIMITED = [cls for cls in typing.get_args(records.Record) if cls.__name__ not in UNLIMITED]
_ALONE: Mapping[str, Fault] = MappingProxyType({name: _fault_of(limit) for name, limit in LIMITS.items()})
_CHECKS: Mapping[type[Any], Fault] = MappingProxyType({cls: _of_class(cls) for cls in _LIMITED})
_MOST_BYTES: Mapping[type[Any], int] = MappingProxyType({cls: _size(cls) for cls in _LIMITED})
