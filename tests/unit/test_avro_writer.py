"""The functions of schemas/avro_writer.py write what fastavro writes, byte for byte, and leave to fastavro what they do not write."""

import dataclasses
import io
import typing
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, records
from schemas.avro_writer import MOST_TEXT, record_writer
from schemas.catalog import SCHEMAS, newest
from tests.support.builders import examples, message, update
from tests.support.long_runs import LONG
from tests.support.straddling import SAMPLES, cases
from tests.unit.test_codec import values

CLASSES = typing.get_args(records.Record)
# Values of every type, at the ends of every number of bytes, and of types that no field has.
ODD: list[Any] = [
    *(None, True, False, "", "a", "PENDING", "a\ud800", b"", b"a", 1.5, float("nan"), (), ("a",), [], {}, {"a": "b"}, {1: 2}),
    *(sign * (2**bits) + step for bits in (6, 13, 31, 34, 41, 63) for sign in (1, -1) for step in (-1, 0)),
    *("é" * (size // 2) + "a" * (size % 2) for size in (63, 64, MOST_TEXT - 1, MOST_TEXT, MOST_TEXT + 1)),
    object(),
    records.Status.SENT,
]  # fmt: skip  # one kind a line


def by_fastavro(record: Any) -> bytes:
    """As the codec did before it had functions of its own."""
    writer, out = codec._WRITERS[type(record)], io.BytesIO()
    out.write(writer.header)
    fastavro.schemaless_writer(out, writer.schema, writer.to_datum(record))
    return out.getvalue()


def outcome(write: Callable[[Any], bytes], record: Any) -> bytes | type[Exception]:
    try:
        return write(record)
    except Exception as error:  # noqa: BLE001  # which one is compared
        return type(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@examples(300 if LONG else 12)
def test_a_record_has_the_bytes_that_fastavro_writes(cls: type[records.Record], data: st.DataObject) -> None:
    record: records.Record = data.draw(values(newest(cls.__name__).definition))
    assert codec._WRITERS[cls].write(record) == by_fastavro(record)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.__name__ in SAMPLES], ids=lambda cls: cls.__name__)
def test_fields_at_their_limits_and_of_any_other_type_end_as_with_fastavro(cls: type[Any]) -> None:
    """The same bytes, or the same exception."""
    sample = SAMPLES[cls.__name__]
    found = [case.of(sample) for case in cases(cls)]
    found += [dataclasses.replace(sample, **{f.name: odd}) for f in dataclasses.fields(cls) for odd in ODD]
    for record in found:
        assert outcome(codec.encode, record) == outcome(by_fastavro, record), record


def test_only_long_texts_and_wrong_values_take_the_longer_way() -> None:
    write = codec._WRITERS[records.Message].write
    assert write(message(text="a" * (MOST_TEXT - 1))) == by_fastavro(message(text="a" * (MOST_TEXT - 1)))
    with pytest.raises(IndexError):
        write(message(text="a" * MOST_TEXT))
    with pytest.raises(TypeError):
        codec._WRITERS[records.StatusUpdate].write(update(occurred_at="now"))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: f"{schema.record}.v{schema.version}")
def test_a_function_can_be_made_for_every_schema(schema: Any) -> None:
    assert callable(record_writer(schema.definition, b""))


@pytest.mark.parametrize(
    "kind", [["string", "null"], ["null", "string", "long"], "float", {"type": "fixed", "name": "F", "size": 2}]
)
def test_a_type_that_no_field_has_is_refused_at_the_start(kind: Any) -> None:
    """A field of such a type needs its own lines there, and not a slow writer without a word."""
    with pytest.raises(NotImplementedError, match="no field of ours"):
        record_writer({"fields": [{"name": "odd", "type": kind}]}, b"")
