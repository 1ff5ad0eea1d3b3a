"""The codec: a record is the same after encoding and decoding, and any other bytes are refused with a CodecError."""

import dataclasses
import io
import re
import struct
import tracemalloc
import typing
from collections.abc import Callable, Mapping
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import causes, codec, limit_check, records
from schemas.catalog import SCHEMAS, newest
from schemas.codec import CodecError, MalformedDatum, NotAvro, OutOfLimits, UnexpectedRecord, UnknownSchema
from schemas.records import StatusUpdate
from tests.support.avro_rules import class_of
from tests.support.builders import examples, update

ID_OF = {s.record: s.id for s in SCHEMAS if s is newest(s.record)}
BINDING = records.Binding(
    channel="telegram",
    account="1",
    provider_message_id="2:3",
    delivery_id="d",
    conversation_id="c",
    home_partition=3,
    bound_at=1_750_000_000_000,
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "bytes": st.binary(max_size=60),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False),
}


def values(node: Any) -> st.SearchStrategy[Any]:
    """Any value that a schema's type allows, as in records.py."""
    match node:
        case [*branches]:
            found = st.one_of([st.none() if branch == "null" else values(branch) for branch in branches])
        case {"type": "array", "items": items}:
            found = st.lists(values(items), max_size=4).map(tuple)
        case {"type": "map", "values": inner}:
            found = st.dictionaries(TEXT, values(inner), max_size=4)
        case {"type": "record", "name": name, "fields": fields}:
            found = st.builds(class_of(name), **{field["name"]: values(field["type"]) for field in fields})
        case {"type": "enum", "name": name}:
            found = st.sampled_from(class_of(name))
        case {"type": inner}:
            found = SCALARS[inner]
        case name:
            found = SCALARS[name] if name in SCALARS else st.sampled_from(class_of(name))
    return found


any_record = st.one_of([values(newest(cls.__name__).definition) for cls in typing.get_args(records.Record)])


@pytest.mark.parametrize("cls", typing.get_args(records.Record), ids=lambda cls: cls.__name__)
@given(data=st.data())
@examples(100)
def test_a_record_comes_back_as_it_was(cls: type[records.Record], data: st.DataObject) -> None:
    record: records.Record = data.draw(values(newest(cls.__name__).definition))
    value = codec.encode(record)
    assert codec.decode_any(value) == record
    if limit_check.fault(record) is None:
        assert codec.decode(value, cls) == record


def refused_or_whole(value: bytes) -> None:
    """Decoding either raises a CodecError and nothing else, or returns a record that can be encoded again."""
    try:
        record = codec.decode_any(value)
    except CodecError:
        return
    assert codec.decode_any(codec.encode(record)) == record


@given(st.binary(max_size=300))
@examples(100)
def test_arbitrary_bytes_are_refused(value: bytes) -> None:
    refused_or_whole(value)


@given(st.sampled_from(SCHEMAS), st.binary(max_size=300))
@examples(300)
def test_arbitrary_bytes_behind_a_good_header_are_refused(schema: Any, rest: bytes) -> None:
    refused_or_whole(struct.pack(">bI", 0, schema.id) + rest)


@given(any_record, st.data())
@examples(300)
def test_a_mutated_datum_is_refused_or_reads_as_a_record(record: records.Record, data: st.DataObject) -> None:
    value = bytearray(codec.encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value)))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=11))
    refused_or_whole(bytes(value))


@given(any_record, st.data())
@examples(100)
def test_a_datum_that_ends_early_is_refused(record: records.Record, data: st.DataObject) -> None:
    value = codec.encode(record)
    with pytest.raises(CodecError):
        codec.decode_any(value[: data.draw(st.integers(0, len(value) - 1))])


@given(any_record, st.binary(min_size=1, max_size=20))
@examples(100)
def test_extra_bytes_are_refused(record: records.Record, tail: bytes) -> None:
    with pytest.raises(MalformedDatum, match="extra bytes"):
        codec.decode_any(codec.encode(record) + tail)


@given(any_record, st.data())
@examples(300)
def test_a_text_that_is_peeked_at_is_the_one_that_is_decoded(record: records.Record, data: st.DataObject) -> None:
    """For whole records and for damaged bytes: `peek` returns the field that `decode` returns, or None."""
    value = bytearray(codec.encode(record))
    if data.draw(st.booleans()):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
        del value[data.draw(st.integers(0, len(value))) :]
    for field in dataclasses.fields(record):
        seen = codec.peek(bytes(value), type(record), field.name)
        try:
            whole = codec.decode(bytes(value), type(record))
        except CodecError:
            continue
        assert seen is None or seen == getattr(whole, field.name)


def test_what_can_be_peeked_at() -> None:
    written = codec.encode(update("é" * 100, delivery_id="d" * 200))
    assert codec.peek(written, StatusUpdate, "tenant_id") == "default"
    assert codec.peek(written, StatusUpdate, "event_id") == "é" * 100
    assert codec.peek(written, StatusUpdate, "delivery_id") == "d" * 200
    assert codec.peek(written, StatusUpdate, "provider_message_id") is None, (
        "not one of the texts at the start of the datum"
    )
    assert codec.peek(written, records.Binding, "delivery_id") is None, "another record"
    for junk in (
        None,
        b"",
        b"\0",
        written[:6],
        written[:5] + b"\xff" * 1_000_000,
        written[:5] + b"\x01",
        b"\0\xff\xff\xff\xffa",
    ):
        assert codec.peek(junk, StatusUpdate, "delivery_id") is None


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (None, NotAvro, "the value is empty"),
        (b"", NotAvro, "the value is empty"),
        (b'{"text": 1}', NotAvro, "byte 0 is 0x7b, 11 bytes"),
        (b"\x00\x00\x00", NotAvro, "3 bytes: not the Confluent wire format"),
        (b"\x00\x00\x00\x00\x07datum", UnknownSchema, "schema id 7 is not one of ours"),
        (b"\x01" + codec.encode(BINDING)[1:], NotAvro, "byte 0 is 0x01"),
        (codec.encode(BINDING)[:-1], MalformedDatum, "schema id 1033, near byte"),
        (codec.encode(BINDING) + b"x", MalformedDatum, "1 extra bytes"),
    ],
)
def test_an_error_says_what_and_where(value: bytes | None, error: type[CodecError], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        codec.decode_any(value)


def test_every_error_is_a_cause_of_dead_letters() -> None:
    kinds = {NotAvro, UnknownSchema, UnexpectedRecord, MalformedDatum, OutOfLimits}
    assert kinds == set(CodecError.__subclasses__())
    assert {kind.cause for kind in kinds} <= set(causes.DESCRIPTIONS)


def test_a_record_on_the_wrong_topic_is_refused_with_its_own_topic() -> None:
    with pytest.raises(UnexpectedRecord, match=r"a Binding where a Message belongs.*schemas/topics\.toml"):
        codec.decode(codec.encode(BINDING), records.Message)


# --- hostile bytes ---------------------------------------------------------------------------------------------------


def number(value: int) -> bytes:
    """An Avro int or long: zigzag, then seven bits per byte."""
    left = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*out, left])


def word(text: str) -> bytes:
    return number(len(text.encode())) + text.encode()


HUGE = [2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**31), -(2**62), -(2**63)]
CONVERSATION = struct.pack(">bI", 0, ID_OF["Conversation"]) + word("t") + word("c")
MESSAGE = struct.pack(">bI", 0, ID_OF["Message"]) + word("t") + word("m") + word("c") + number(0) + word("s")
LETTER = struct.pack(">bI", 0, ID_OF["DeadLetter"]) + b"".join(
    word(name) for name in ("t", "i", "s", "c", "d", "topic")
)
TRAPS: Mapping[str, Callable[[int], bytes]] = {
    "array of text": lambda n: CONVERSATION + number(n) + word("m") + number(0) + number(5),
    "array of records": lambda n: MESSAGE + number(n) + bytes(64),
    "map": lambda n: (
        MESSAGE + number(0) + word("text") + word("") + b"\0\0" + number(5) + number(n) + word("k") + b"\0"
    ),
    "text": lambda n: CONVERSATION[:5] + number(n) + bytes(64),
    "bytes": lambda n: LETTER + number(0) + number(0) + number(0) + number(1) + number(n) + bytes(64),
    "union": lambda n: LETTER + number(0) + number(0) + number(0) + number(n) + bytes(64),
}


@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize("trap", TRAPS)
def test_a_huge_count_takes_no_memory(trap: str, count: int) -> None:
    value = TRAPS[trap](count)
    tracemalloc.start()
    try:
        refused_or_whole(value)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_number_without_end_is_refused() -> None:
    refused_or_whole(CONVERSATION + b"\x80" * 1_000_000)


def test_the_traps_are_in_the_right_place() -> None:
    """With a correct count the same bytes are read as records, or are refused only for what follows."""
    assert codec.decode(TRAPS["array of text"](1), records.Conversation).members == ("m",)
    assert codec.decode(TRAPS["map"](1) + number(0) + b"\0", records.Message).metadata == {"k": ""}
    for trap in ("array of records", "text", "bytes", "union"):
        with pytest.raises(MalformedDatum, match="extra bytes"):
            codec.decode_any(TRAPS[trap](0 if trap == "union" else 1) + bytes(64))


def test_a_full_size_record_of_the_smallest_parts_stays_small() -> None:
    """The largest record in memory that an application can make within 1 MB: as many recipients as fit, four bytes each."""
    count = 249_000
    value = MESSAGE + number(count) + bytes(4 * count) + b"\0" + word("text") + word("") + b"\0\0" + number(5) + b"\0\0"
    assert len(value) < 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(OutOfLimits, match=r"Message\.recipients has 249000 items: at most 5000"):
            codec.decode(value, records.Message)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("partition", [2**31, -(2**31) - 1, 2**62])
def test_an_int_beyond_32_bits_is_refused(partition: int) -> None:
    """fastavro alone would read it, but it does not fit into a partition number or a database column."""
    whole, rest = codec.encode(BINDING), number(BINDING.bound_at) + b"\x00" * 3  # not partial, no address, no message
    value = whole.removesuffix(number(3) + rest) + number(partition) + rest
    with pytest.raises(MalformedDatum, match=r"home_partition .* beyond an int"):
        codec.decode_any(value)


# --- other serialisers --------------------------------------------------------------------------------------


def test_what_a_confluent_serialiser_writes_is_read() -> None:
    """Magic byte, id, then the datum as fastavro writes it with the published schema: times are datetimes, and defaults are left out."""
    schema = newest("Message")
    out = io.BytesIO()
    out.write(struct.pack(">bI", 0, schema.id))
    message = {
        "message_id": "m-1",
        "conversation_id": "c-1",
        "recipients": [{"channel": "telegram", "address": "5550101"}],
        "text": "hello",
        "requested_at": 1_750_000_000_000,
    }
    fastavro.schemaless_writer(out, dict(schema.definition), message)
    assert codec.decode(out.getvalue(), records.Message) == records.Message(
        message_id="m-1",
        conversation_id="c-1",
        recipients=(records.Recipient(channel="telegram", address="5550101"),),
        text="hello",
        requested_at=1_750_000_000_000,
    )
