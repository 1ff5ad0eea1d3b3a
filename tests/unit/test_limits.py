"""The limits: every field has one, each is exact, and the largest records within them can be written everywhere."""

import dataclasses
import typing
from enum import StrEnum
from typing import Any

import pytest

from schemas import codec, limit_check
from schemas.limits import LIMITS, SENTENCE, UNLIMITED, WORD, Labels, Many, Text, Whole, limit_of, record_in
from schemas.records import Delivery, Message, Receipt, Record
from tables.bindings import MOST_WAITING, WAITING, WaitingReceipt
from tables.conversations import CONVERSATIONS, Members
from tables.layout import Layout
from tables.outstanding import OUTSTANDING, Outstanding
from tables.timeline_layout import TIMELINES
from tables.timelines import KEPT_EVENTS, MOST_EARLY, Timeline
from tests.support.builders import NOW, delivery, message, receipt, update
from tests.support.straddling import SAMPLES, cases
from tools.reference_pages import limited_classes

MOST = 1_000_000  # bytes of a record and of a row
TOP = [cls for cls in typing.get_args(Record) if cls.__name__ not in UNLIMITED]


@pytest.mark.parametrize("cls", limited_classes(), ids=lambda cls: cls.__name__)
def test_every_field_of_every_record_has_a_limit(cls: type[Any]) -> None:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        its_type_is_limit_enough = hint is bool or (isinstance(hint, type) and issubclass(hint, StrEnum))
        one_record = record_in(hint) is not None and typing.get_origin(hint) is not tuple
        assert its_type_is_limit_enough or one_record or limit_of(cls.__name__, field.name), field.name


def test_only_dead_letters_have_no_limits() -> None:
    assert {cls.__name__ for cls in typing.get_args(Record)} - {cls.__name__ for cls in TOP} == {"DeadLetter"}


def test_every_limit_is_of_a_field() -> None:
    used = {name for cls in limited_classes() for name in (f.name for f in dataclasses.fields(cls))}
    exact = {f"{cls.__name__}.{field.name}" for cls in limited_classes() for field in dataclasses.fields(cls)}
    assert set(LIMITS) <= used | exact


@pytest.mark.parametrize("cls", TOP, ids=lambda cls: cls.__name__)
def test_a_record_is_refused_exactly_when_a_field_is_beyond_its_limit(cls: type[Any]) -> None:
    sample = SAMPLES[cls.__name__]
    for case in cases(cls):
        record = case.of(sample)
        found = limit_check.fault(record)
        assert (found is not None) == case.beyond, case.name
        if found is None:
            assert codec.decode(codec.encode(record), cls) == record
            continue
        assert found.startswith(f"{cls.__name__}."), found
        assert len(found) < 400, "the sentence never contains the value"
        with pytest.raises(codec.OutOfLimits, match=cls.__name__):
            codec.decode(codec.encode(record), cls)


@pytest.mark.parametrize("odd", ["\ud800", "a\udfffb" * 40], ids=ascii)
@pytest.mark.parametrize("field", ["text", "message_id", "sender", "kind", "tenant_id"])
def test_half_a_character_is_not_a_text(field: str, odd: str) -> None:
    assert limit_check.fault(message(**{field: odd})) is not None


def test_numbers_with_unnecessary_bytes_are_refused() -> None:
    """Avro's numbers may have any number of leading zeros, so a small record could have many bytes."""
    plain = codec.encode(receipt(error_title=None))
    assert plain[5:6] == b"\x0e", "the length of the tenant id, seven"
    padded = plain[:5] + b"\x8e" + b"\x80" * 900_000 + b"\x00" + plain[6:]
    with pytest.raises(codec.CodecError):
        codec.decode(padded, Receipt)


# --- the largest record of each class --------------------------------------------------------------------------------------------------


def largest(cls: type[Any], character: str) -> Any:
    """A record with all fields at their limits, except lists of records that would be too large alone."""
    hints = typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        limit, inner = limit_of(cls.__name__, field.name), record_in(hints[field.name])
        match limit:
            case Text(any_character=True):
                found[field.name] = character * (limit.most // len(character.encode()))
            case Text():
                found[field.name] = ("a" if limit.pattern else '"') * limit.most
            case Whole():
                found[field.name] = limit.most
            case Many(each=Text() as each):
                size = min(each.most, (limit.together or 0) or each.most)
                count = min(limit.most, (limit.together or size * limit.most) // size)
                found[field.name] = ('"' * size,) * count
            case Many() if inner is not None:
                found[field.name] = (largest(inner, character),) * min(limit.most, 30)
            case Labels():
                value = character * (limit.value.most // len(character.encode()))
                found[field.name] = {f"{i:0{limit.key.most}}": value for i in range(limit.most)}
            case None if inner is not None:
                found[field.name] = largest(inner, character)
            case _:
                if field.default is dataclasses.MISSING:
                    found[field.name] = (
                        next(iter(hints[field.name])) if isinstance(hints[field.name], type(StrEnum)) else 1.0
                    )
    return cls(**found)


@pytest.mark.parametrize("character", ["\x01", "🌻", '"'], ids=ascii)
@pytest.mark.parametrize("cls", TOP, ids=lambda cls: cls.__name__)
def test_the_largest_record_is_within_the_bytes_of_its_class(cls: type[Any], character: str) -> None:
    record = largest(cls, character)
    assert limit_check.fault(record) is None
    most = limit_check.most_bytes(cls)
    assert most is not None
    assert len(codec.encode(record)) <= most
    if cls not in (Message, *(c for c in TOP if c.__name__ == "SequencedMessage")):
        assert most < MOST, "stage route checks the size of these two"


LARGEST_DELIVERY: Delivery = largest(Delivery, "\x01")
LARGEST_RECEIPT: Receipt = largest(Receipt, "\x01")


def rows() -> list[tuple[Layout[Any], Any]]:
    early = tuple(largest(type(update()), "\x01") for _ in range(MOST_EARLY))
    state = largest(type(SAMPLES["DeliveryState"]), "\x01")
    names = {*Timeline._fields} & {f.name for f in dataclasses.fields(type(state))}
    timeline = Timeline(
        **{name: getattr(state, name) for name in names}, events=(2**64 - 1,) * KEPT_EVENTS, early=early
    )
    place = (2**63 - 1, 2**63 - 1, LARGEST_RECEIPT.event_id)
    people = largest(type(SAMPLES["Conversation"]), "\x01").members
    return [
        (OUTSTANDING, Outstanding(LARGEST_DELIVERY, ("deliveries.whatsapp", 2**63 - 1, 2**63 - 1), evidence='"' * 512)),
        (WAITING, WaitingReceipt(NOW, (place,) * MOST_WAITING, (codec.encode(LARGEST_RECEIPT),) * MOST_WAITING)),
        (TIMELINES, timeline),
        (CONVERSATIONS, Members("t" * 64, people, NOW)),
    ]


@pytest.mark.parametrize(("layout", "row"), rows(), ids=lambda each: getattr(each, "name", ""))
def test_the_largest_row_of_each_table_is_below_a_megabyte(layout: Layout[Any], row: Any) -> None:
    value = layout.encode(row)
    assert len(value) < MOST
    assert layout.decode(value) == row


def test_control_characters_take_no_more_room_in_a_row_than_in_the_record() -> None:
    row = Outstanding(delivery(text="\x01" * 65_536), ("deliveries.whatsapp", 0, 0))
    assert len(OUTSTANDING.encode(row)) < 66_500


# --- descriptive texts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("short", "short"),
        ("a" * 1000, "a" * 1000),
        ("a" * 1001, "a" * 994 + " […]"),
        ("é" * 600, "é" * 497 + " […]"),
        ("🌻" * 200_000, "🌻" * 248 + " […]"),
        ("a\ud800b", "a?b"),
    ],
    ids=lambda each: ascii(each)[:20],
)
def test_a_descriptive_text_is_shortened_and_marked(said: str, kept: str) -> None:
    assert limit_check.trimmed(said, SENTENCE) == kept
    assert len(kept.encode()) <= 1000


def test_a_word_is_cut_and_loses_its_control_characters() -> None:
    assert limit_check.trimmed("a\x00b\x85c", WORD) == "a b c"
    assert len(limit_check.trimmed("c" * 800_000, WORD).encode()) == 64
