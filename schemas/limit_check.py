"""Checks whether the fields of a record are within their limits (schemas/limits.py), in one or two microseconds.

Enters: a record. Leaves: None, or a sentence that names the field and its limit, and never the value, which may be large. Pure; any thread
may call it.
"""

import dataclasses
import enum
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any

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
_MARK = " […]"  # the end of a text that `trimmed` has shortened
_FRAME = 16  # bytes that a field needs beyond its text: lengths, the branch of a union, a number
Fault = Callable[[Any], str | None]


def fault(record: records.Record) -> str | None:
    """What is wrong with the first field that is out of its limits; None if all are within them. Classes without limits always pass."""
    check = _CHECKS.get(type(record))
    return None if check is None else check(record)


def most_bytes(cls: type[Any]) -> int | None:
    """An upper bound for the bytes of a record of the class whose fields are within their limits; None for a class without limits."""
    return _MOST_BYTES.get(cls)


def allows(field: str, value: str | int) -> bool:
    """Whether a value is within the limit of this field. Raises KeyError for a field without a limit of its own."""
    return _ALONE[field](value) is None


def trimmed(text: str, limit: Limit = SENTENCE) -> str:
    """A descriptive text, shortened to its limit and marked where it was cut. A lone surrogate becomes `?`; control characters become
    spaces if the limit forbids them. Raises TypeError if `limit` is not a Text."""
    if not isinstance(limit, Text):
        raise TypeError(f"{limit} is not the limit of a text")
    if not limit.any_character:
        text = _CONTROL.sub(" ", text)
    coded = text.encode("utf-8", "replace")
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
            return lambda value: None if math.isfinite(value) else " is not a finite number"
        case Many():
            return _many(limit)
        case Labels():
            return _labels(limit)


def _text(limit: Text) -> Fault:
    matches = re.compile(limit.pattern).fullmatch if limit.pattern else None

    def check(value: str) -> str | None:
        length = len(value)
        if limit.least <= length <= limit.most:  # a text that is far too long is not encoded
            if not value.isascii():
                try:
                    length = len(value.encode())
                except UnicodeEncodeError:
                    return f" contains half of a character (a lone surrogate): {described(limit)}"
            if length <= limit.most:
                return _characters(value, limit, matches)
        return f" has {length} bytes or more: {described(limit)}" if length else f" is empty: {described(limit)}"

    return check


def _characters(value: str, limit: Text, matches: Callable[[str], object] | None) -> str | None:
    if matches is not None:
        return None if matches(value) else f" contains other characters: {described(limit)}"
    if limit.any_character or value.isprintable():
        return None
    found = _CONTROL.search(value)
    if found is None:
        return None  # for example another kind of space
    return f" contains the control character U+{ord(found[0]):04X} at index {found.start()}: {described(limit)}"


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
        for number, (key, text) in enumerate(value.items()):
            found = of_key(key)
            if found is not None:
                return f", key {number},{found}"
            found = of_value(text)
            if found is not None:
                return f"[{key!r}]{found}"
        return None

    return check


# --- one function for each class ------------------------------------------------------------------------------------------------


def _of_class(cls: type[Any]) -> Fault:
    """A check of all fields. Nearly every record has short ASCII texts and small numbers: one generated test covers these fields together,
    and only if it fails are the fields checked one by one."""
    slow = _exact(cls, set())
    is_good, covered = _quick(cls)
    if not covered:
        return slow
    rest = _exact(cls, covered)

    def check(record: Any) -> str | None:
        return rest(record) if is_good(record) else slow(record)

    return check


def _quick(cls: type[Any]) -> tuple[Callable[[Any], bool], set[str]]:
    """A function that is true only if the fields of these names are within their limits: texts and numbers of ordinary kinds."""
    names: dict[str, Any] = {}
    lines: list[str] = []
    covered: set[str] = set()
    plain: list[str] = []  # texts whose characters are looked at together
    for number, (name, limit, hint) in enumerate(_fields(cls)):
        value = f"v{number}"
        if hint in {int, int | None} and isinstance(limit, Whole):
            good = f"{limit.least} <= {value} <= {limit.most}"
        elif hint in {str, str | None} and isinstance(limit, Text) and not limit.any_character:
            good = f"{limit.least} <= len({value}) <= {limit.most}"
            if limit.pattern is not None:
                names[f"matches{number}"] = re.compile(limit.pattern).fullmatch
                good += f" and {value}.isascii() and matches{number}({value})"
            elif hint is str:
                plain.append(value)
            else:
                good += f" and {value}.isascii() and {value}.isprintable()"
        else:
            continue
        covered.add(name)
        unless_missing = "" if hint in {int, str} else f"{value} is not None and "
        lines += [f"{value} = record.{name}", f"if {unless_missing}not ({good}): return False"]
    together = "".join(f"{{{value}}}" for value in plain)
    lines += [f'together = f"{together}"', "return together.isascii() and together.isprintable()"]
    exec("def is_good(record):\n" + "".join(f"    {line}\n" for line in lines), names)  # noqa: S102  # source made from our own limits
    is_good: Callable[[Any], bool] = names["is_good"]
    return is_good, covered


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
    """The sentence of a nested record without the name of its class: `.url has ...`."""
    return None if found is None else found[found.index(".") :]


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
