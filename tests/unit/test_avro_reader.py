"""The generated readers beside fastavro: the same record from the same bytes, and nothing from bytes that fastavro refuses."""

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, records
from schemas.avro_reader import UNREADABLE, reader_of
from schemas.catalog import SCHEMAS, newest
from tests.support.straddling import SAMPLES

CLASSES = [cls for cls in typing.get_args(records.Record) if cls.__name__ in SAMPLES]
HEADER = 5


def full(value: bytes) -> Any:
    """What fastavro reads, or its refusal."""
    schema_id = int.from_bytes(value[1:HEADER], "big")
    try:
        return codec._read_in_full(value, schema_id, codec._READERS[schema_id])
    except codec.MalformedDatum:
        return "refused"


def read(value: bytes) -> Any:
    try:
        return codec.decode_any(value)
    except codec.MalformedDatum:
        return "refused"


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: an int is no bool, and a status is no plain text."""
    return one == other and repr(one) == repr(other)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_record_has_a_reader_that_needs_no_fastavro(cls: type[Any]) -> None:
    value = codec.encode(SAMPLES[cls.__name__])
    found, end = reader_of(newest(cls.__name__).definition, cls)(value, HEADER)
    assert end == len(value)
    assert same(found, full(value))


@given(data=st.data())
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_changed_bytes_are_read_as_fastavro_reads_them(cls: type[Any], data: st.DataObject) -> None:
    value = bytearray(codec.encode(SAMPLES[cls.__name__]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(HEADER, max(HEADER, len(value) - 1)))
        new = data.draw(
            st.sampled_from((b"", b"\x00", b"\x01", b"\x02", b"\x80", b"\xff", b"\x80\x00", b"\xfe\xff\xff\x0f"))
        )
        value[at : at + data.draw(st.integers(0, 3))] = new
    assert same(read(bytes(value)), full(bytes(value)))


@given(number=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**45))
def test_every_time_and_number_comes_back(number: int) -> None:
    sample = dataclasses.replace(SAMPLES["Message"], requested_at=number, not_before=number)
    assert codec.decode_any(codec.encode(sample)) == sample


def test_a_schema_that_the_class_does_not_have_is_refused() -> None:
    older = next(schema for schema in SCHEMAS if schema.record == "DeliveryState" and schema.version == 1)
    with pytest.raises(ValueError, match="other fields"):
        reader_of(older.definition, records.DeliveryState)
    assert issubclass(UnicodeDecodeError, UNREADABLE)
