"""Records whose fields are just below, at and above their limits, made from schemas/limits.py."""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from schemas import records
from schemas.content import Content, Location, Media, Template
from schemas.limits import Labels, Limit, Many, Real, Text, Whole, limit_of, record_in
from schemas.records import Address, Recipient
from tests.support import builders

LONG = 2**63  # the end of Avro's long
# fields of Avro's type int: the codec itself refuses numbers beyond it
INT_FIELDS = {"home_partition", "version", "attempt", "attempts", "resends", "throttles"}

SAMPLES: dict[str, Any] = {
    "Message": builders.message(),
    "SequencedMessage": builders.sequenced(builders.ref()),
    "Delivery": builders.delivery(),
    "Binding": builders.binding(),
    "Receipt": builders.receipt(),
    "StatusUpdate": builders.update(),
    "DeliveryState": builders.delivery_state(),
    "Conversation": builders.conversation("ana"),
    "Contact": records.Contact(user_id="ana", addresses=(), updated_at=builders.NOW),
    "Cursor": builders.cursor(),
    "CursorReport": builders.cursor_report(),
    "InboundMessage": builders.inbound_message(),
    "Preference": builders.preference(),
    "Suppression": builders.suppression(),
    "Window": builders.window(),
    "Erasure": records.Erasure(
        erasure_id="erasure-1",
        conversation_id="c-1",
        home_partition=0,
        person="ana",
        addresses=(),
        requested_at=builders.NOW,
    ),
    "Recipient": Recipient(channel="whatsapp", address="1"),
    "DeliveryRef": builders.ref(),
    "Content": Content(),
    "Media": Media("image", url="https://shop.example/a.jpg"),
    "Template": Template("hello", "en"),
    "Location": Location(1.0, 2.0),
    "Address": Address(channel="whatsapp", address="1"),
}


class Case(NamedTuple):
    """One field of a record with a value. `beyond` says whether the value is out of the field's limit."""

    name: str
    of: Callable[[Any], Any]
    beyond: bool


def cases(cls: type[Any]) -> Iterator[Case]:
    """Every field of the class and of the records in it, at both ends of its limit."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        limit, inner = limit_of(cls.__name__, field.name), record_in(hints[field.name])
        is_many = typing.get_origin(hints[field.name]) is tuple
        for value, beyond in edges(limit, inner, field.name):
            yield Case(f"{field.name} {_short(value)}", _put(field.name, value), beyond)
        if inner is None:
            continue
        for case in cases(inner):
            value = case.of(SAMPLES[inner.__name__])
            yield Case(f"{field.name}.{case.name}", _put(field.name, (value,) if is_many else value), case.beyond)


def edges(limit: Limit | None, inner: type[Any] | None, name: str = "") -> Iterator[tuple[Any, bool]]:
    match limit:
        case Text():
            yield from _texts(limit)
        case Whole():
            bottom, top = (-(2**31), 2**31 - 1) if name in INT_FIELDS else (-LONG, LONG - 1)
            yield from ((value, False) for value in (limit.least, limit.most))
            yield from (
                (v, True) for v in (limit.least - 1, limit.most + 1, bottom, top) if _is_out(v, limit, bottom, top)
            )
        case Many(each=None) if inner is not None:
            sample = SAMPLES[inner.__name__]
            yield (sample,) * limit.most, False
            yield (sample,) * (limit.most + 1), True
        case Many(each=Text() as each):
            size = min(each.most, (limit.together or each.most * limit.most) // limit.most)
            yield tuple(f"{i:0{size}}"[-size:] for i in range(limit.most)), False
            yield ("a",) * (limit.most + 1), True
            yield from (
                ((value,), beyond)
                for value, beyond in _texts(each)
                if len(value.encode()) <= (limit.together or each.most) or beyond
            )
            if limit.together is not None and each.most < limit.together:
                yield ("a" * each.most,) * (limit.together // each.most + 1), True
        case Labels():
            yield {str(i): "" for i in range(limit.most)}, False
            yield {str(i): "" for i in range(limit.most + 1)}, True
            yield from (({value: ""}, beyond) for value, beyond in _texts(limit.key))
            yield from (({"a": value}, beyond) for value, beyond in _texts(limit.value))
        case Real() | None:
            return


def _texts(limit: Text) -> Iterator[tuple[str, bool]]:
    yield "a" * (limit.most - 1), False
    yield "a" * limit.most, False
    yield "a" * (limit.most + 1), True
    yield "a" * (20 * limit.most), True
    if limit.least:
        yield "", True
    if limit.pattern is not None:
        yield from ((odd, True) for odd in ("a/b", "é", "a\x00", "a" * 63 + "\n"))
        return
    yield '"' * limit.most, False  # two characters each in JSON
    yield "🌻" * (limit.most // 4), False
    yield "é" * (limit.most // 2 + 1), True
    # six characters each in JSON
    yield from ((odd * limit.most, not limit.any_character) for odd in ("\x00", "\x1f", "\x7f"))
    yield "\u0085" * (limit.most // 2), not limit.any_character


def _is_out(value: int, limit: Whole, bottom: int, top: int) -> bool:
    return bottom <= value <= top and not limit.least <= value <= limit.most


def _put(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda record: dataclasses.replace(record, **{name: value})


def _short(value: Any) -> str:
    size = len(value) if hasattr(value, "__len__") else value
    return f"{type(value).__name__} {size} {ascii(value)[:12]}"
